"""Results of other tools, whose images and categories have other ids than the ground truth."""

import os
from collections.abc import Iterable, Mapping
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


def decode_other_results(
    content: Any,
    ground_truth: Mapping[str, Any],
    by_name: bool = False,
    first_category_id: int | None = None,
) -> list[_Result]:
    """
    Detections of another tool's JSON file, with the ids of the ground truth.

    Args:
        content: of the file.
        ground_truth: as ``load_ground_truth`` returns it.
        by_name: images are found by their file names, without folder and ending: by ``file_name``
            of the detection, or of the image in a file that has its own images, or else
            ``image_id``, of which leading zeros do not count. Categories are found by
            ``category_name``, or the name in a file that has its own categories, or a
            ``category_id`` that is text.
        first_category_id: what other ``category_id`` count from, in ascending order of the ground
            truth's ids; None where they are the ground truth's.

    Raises:
        ValueError: the file is not in a form that is known, or has a name or id that the ground
            truth does not have, or has twice.
    """
    results = msgspec.json.decode(content, type=list[_Result] | _LabelFile)
    files: dict[Any, str] = {}
    names: dict[Any, str] = {}
    if isinstance(results, _LabelFile):
        files = {image.id: image.file_name for image in results.images}
        names = {category.id: category.name for category in results.categories}
        results = results.annotations
    images, categories = ground_truth["images"], ground_truth["categories"]
    category_ids: dict[Label, int | None] = {c["id"]: c["id"] for c in categories}
    if first_category_id is not None:
        category_ids = {first_category_id + k: c["id"] for k, c in enumerate(categories)}
    image_ids: dict[Label, int | None] = {image["id"]: image["id"] for image in images}
    if by_name:
        category_ids |= _by_name((category["name"], category["id"]) for category in categories)
        image_ids = _by_name(
            (_stem(image.get("file_name") or image.get("coco_url", "")), image["id"])
            for image in images
        )
    for i, result in enumerate(results):
        image: Any = result.image_id
        category: Any = result.category_id
        if by_name:
            image = _stem(result.file_name or files.get(image, image))
            category = result.category_name or names.get(category, category)
        for kind, label, ids in (("image", image, image_ids), ("category", category, category_ids)):
            if ids.get(label) is None:
                number = "two of" if label in ids else "no"
                raise ValueError(f"detection {i}: {number} {kind} {label!r} in the dataset")
        result.image_id, result.category_id = image_ids[image], category_ids[category]
    return results


def _by_name(pairs: Iterable[tuple[Label, int]]) -> dict[Label, int | None]:
    """Ids by name; None for a name that several have."""
    ids: dict[Label, int | None] = {}
    for name, of_name in pairs:
        ids[name] = None if name in ids else of_name
    return ids


def _stem(name: Label) -> Label:
    """File name without folder and ending; as a number where it is one, as tools write it."""
    stem = os.path.splitext(os.path.basename(str(name).replace("\\", "/")))[0]
    return int(stem) if stem.isdecimal() else stem
