"""Results of other tools, whose images and categories have other ids than the ground truth."""

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from .results_file import ABSENT

Label = int | str


class _Result(msgspec.Struct, gc=False):
    """Detection: that of LVIS's results format, and the names that other tools give as well."""

    score: float
    image_id: Label | None = None
    file_name: str | None = None
    category_id: Label | None = None
    category_name: str | None = None
    bbox: tuple[float, float, float, float] | None = None
    segmentation: msgspec.Raw = ABSENT


class _Image(msgspec.Struct):
    id: Label
    file_name: str


class _Category(msgspec.Struct):
    id: Label
    name: str


class _LabelFile(msgspec.Struct):
    """Detections as an annotation file, with images and categories of their own."""

    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Result]


class OtherIds:
    """
    The ids that the ground truth has for the images and categories of other tools' results.

    Args:
        ground_truth: as ``load_ground_truth`` returns it.
        annotation_file: where it is from, for errors.
        by_name: images are found by their file names, without folder and ending: by ``file_name``
            of the detection, or of the image in a file that has its own images, or else
            ``image_id``, of which leading zeros do not count. Categories are found by
            ``category_name``, or the name in a file that has its own categories, or an
            ``category_id`` that is text.
        first_category_id: what other ``category_id`` count from, in ascending order of the ground
            truth's ids; None where they are the ground truth's.
    """

    def __init__(
        self,
        ground_truth: Mapping[str, Any],
        annotation_file: str,
        by_name: bool = False,
        first_category_id: int | None = None,
    ):
        self._annotation_file = annotation_file
        self._by_name = by_name
        categories = ground_truth["categories"]
        self._first_category_id = first_category_id
        self._category_ids = [category["id"] for category in categories]
        if by_name:
            self._image_ids = self._unique(
                ((_stem(image.get("file_name") or image.get("coco_url", "")), image["id"]))
                for image in ground_truth["images"]
            )
            self._ids_of_names = self._unique((c.get("name"), c["id"]) for c in categories)

    def decode(self, content: Any) -> list[_Result]:
        """
        Detections of a JSON file, with the ids of the ground truth.

        Raises:
            msgspec.DecodeError: the file is not in a form that is known.
            LookupError: a name or id that the ground truth does not have, or has twice.
        """
        results = msgspec.json.decode(content, type=list[_Result] | _LabelFile)
        names: dict[Label, str] = {}
        files: dict[Label, str] = {}
        if isinstance(results, _LabelFile):
            names = {category.id: category.name for category in results.categories}
            files = {image.id: image.file_name for image in results.images}
            results = results.annotations
        for i, result in enumerate(results):
            try:
                self._rename(result, files, names)
            except LookupError as error:
                raise LookupError(f"detection {i}: {error.args[0]}") from None
        return results

    def _rename(self, result: _Result, files: Mapping, names: Mapping) -> None:
        if self._by_name:
            name = result.file_name or files.get(result.image_id, result.image_id)
            result.image_id = self._find(self._image_ids, _stem(name), "image", name)
        category = result.category_id
        if self._by_name:
            category = result.category_name or names.get(category, category)
        if isinstance(category, str) and self._by_name:
            result.category_id = self._find(self._ids_of_names, category, "category", category)
        elif isinstance(category, int) and self._first_category_id is not None:
            k = category - self._first_category_id
            if not 0 <= k < len(self._category_ids):
                last = self._first_category_id + len(self._category_ids) - 1
                raise LookupError(
                    f"category_id {category} is not among the {len(self._category_ids)} of "
                    f"{self._annotation_file}, {self._first_category_id} to {last}"
                )
            result.category_id = self._category_ids[k]
        for key in ("image_id", "category_id"):
            if not isinstance(getattr(result, key), int):
                raise LookupError(f"{key} {getattr(result, key)!r} is no number; give --by-name")

    def _find(self, ids, name, kind, given):
        if name not in ids:
            raise LookupError(f"no {kind} {given!r} in {self._annotation_file}")
        if ids[name] is None:
            raise LookupError(f"two of {kind} {given!r} in {self._annotation_file}")
        return ids[name]

    def _unique(self, pairs):
        """Ids by name; None for a name that several have."""
        ids: dict[Label, int | None] = {}
        for name, of_name in pairs:
            ids[name] = None if name in ids else of_name
        return ids


def _stem(name):
    """File name without folder and ending; as a number where it is one, as tools write it."""
    stem = os.path.splitext(os.path.basename(str(name).replace("\\", "/")))[0]
    return int(stem) if stem.isdecimal() else stem
