"""Images of an annotation file in Detectron2's format, decoded from its text one at a time."""

import dataclasses
import logging
import os
from collections.abc import Container, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BoxMode

from .annotation_columns import AnnotationColumns, joined_columns
from .annotation_file import AnnotationFile, decode_entry, id_problem, paused_garbage_collector
from .annotation_problems import (
    MAX_COORDINATE,
    Problem,
    Problems,
    box_problem,
    image_file_name,
    image_problem,
    name_problem,
    reference_problem,
    segmentation_problem,
)

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class AnnotatedImages(Sequence):
    """
    Images in Detectron2's standard format, in ascending order of id, each decoded anew whenever it
    is asked for. Forked workers share the text and the arrays.

    Class ids, also those in "neg_category_ids" and "not_exhaustive_category_ids" (absent where
    the file has none), are contiguous, in ascending order of the file's category ids. Annotations
    have "bbox" (XYWH, pixels), "category_id", and where the file has them "iscrowd" and
    "segmentation" (polygons, or compressed RLE).

    Attributes:
        json_file: annotation file.
        image_root: folder that file names are relative to.
        from_coco_url: whether file names are those of "coco_url", as Detectron2 reads LVIS.
        class_names: K names.
        contiguous_ids: class of each category id, in ascending order of both.
        text: of the annotation file.
        image_spans: (N, 2) int64, start and end of each image in ``text``.
        annotation_ranges: (N, 2) int64, first and one past the last of its ``annotation_spans``.
        annotation_spans: (A, 2) int64, start and end of each annotation in ``text``.
        is_wide: (N,) bool, True for images that are wider than high.
        columns: of the annotations of these images.
    """

    json_file: str
    image_root: str
    from_coco_url: bool
    class_names: list[str]
    contiguous_ids: dict[int, int]
    text: bytes
    image_spans: np.ndarray
    annotation_ranges: np.ndarray
    annotation_spans: np.ndarray
    is_wide: np.ndarray
    columns: AnnotationColumns

    def __len__(self) -> int:
        return self.columns.num_images

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]  # no slices
        image = self._decode(self.image_spans[index])
        height, width = image["height"], image["width"]
        file_name = image_file_name(image, self.from_coco_url)
        record = {
            "file_name": os.path.join(self.image_root, file_name),
            "height": height,
            "width": width,
            "image_id": image["id"],
        }
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            if key in image:
                record[key] = [self.contiguous_ids[category_id] for category_id in image[key]]
        spans = self.annotation_spans[slice(*self.annotation_ranges[index])]
        annotations = map(self._decode, spans)
        record["annotations"] = [self._instance(x, height, width) for x in annotations]
        return record

    def with_annotations(self) -> "AnnotatedImages":
        """Only the images with an annotation that is no crowd; the text is shared."""
        keep = np.zeros(len(self), dtype=bool)
        keep[self.columns.images[~self.columns.is_crowd]] = True
        if keep.all():
            return self
        return dataclasses.replace(
            self,
            image_spans=self.image_spans[keep],
            annotation_ranges=self.annotation_ranges[keep],
            is_wide=self.is_wide[keep],
            columns=self.columns.of_images(keep),
        )

    def _decode(self, span: np.ndarray) -> Any:
        start, end = span.tolist()
        return decode_entry(self.text[start:end], self.json_file)

    def _instance(self, annotation: dict[str, Any], height: int, width: int) -> dict[str, Any]:
        instance = {
            "bbox": annotation["bbox"],
            "bbox_mode": BoxMode.XYWH_ABS,
            "category_id": self.contiguous_ids[annotation["category_id"]],
        }
        if "iscrowd" in annotation:
            instance["iscrowd"] = annotation["iscrowd"]
        segmentation = annotation.get("segmentation")
        if segmentation:
            if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
                segmentation = mask_util.frPyObjects(segmentation, height, width)
            instance["segmentation"] = segmentation
        return instance


@dataclasses.dataclass(frozen=True, eq=False)
class JoinedImages(Sequence):
    """Images of several annotation files, one file after the other."""

    parts: Sequence[AnnotatedImages]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]  # no slices
        for part in self.parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)

    @property
    def is_wide(self) -> np.ndarray:
        """(N,) bool, True for images that are wider than high."""
        return np.concatenate([part.is_wide for part in self.parts])

    @property
    def columns(self) -> AnnotationColumns:
        """Columns of the annotations of all images."""
        return joined_columns([part.columns for part in self.parts])


@paused_garbage_collector()
def read_annotated_images(
    json_file: str, image_root: str, from_coco_url: bool = False, classes_only: bool = False
) -> AnnotatedImages:
    """
    Read and check an annotation file in COCO or LVIS format.

    Args:
        json_file: annotation file, with "images", "annotations" and "categories".
        image_root: folder that an image's "file_name" is relative to. Where that is absent, as in
            LVIS v1, the last two parts of "coco_url" are taken, and this is the folder that holds
            ``train2017`` and ``val2017``.
        from_coco_url: take "coco_url" even where there is a "file_name".
        classes_only: pass over boxes and masks, in half of the time, where only the ``columns``
            are wanted; no image can be asked for.

    Raises:
        ValueError: the file is not such a file. One line names the file, the first offending
            id, and how many have the same problem.
    """
    file = AnnotationFile(json_file)
    problems = Problems(json_file)
    categories = category_names(file)
    sizes: dict[int, tuple[Any, Any]] = {}
    for image in file.entries("images", problems.add):
        problem = _image_problem(image, categories, from_coco_url)
        problems.add(f"image {image['id']}", problem)
        sizes[image["id"]] = image.get("height"), image.get("width")
    if not file.raw_entries("annotations"):
        list(file.entries("annotations", problems.add))
    problems.raise_first()

    contiguous_ids = {category_id: k for k, category_id in enumerate(categories)}
    columns, order = _read_columns(file, sizes, contiguous_ids, problems, classes_only)
    problems.raise_first()
    ends = np.cumsum(np.bincount(columns.images, minlength=len(sizes)))
    by_id = np.array(sorted(range(len(sizes)), key=list(sizes).__getitem__))
    heights, widths = np.array(list(sizes.values()), dtype=np.int64)[by_id].T
    if classes_only:
        image_spans = annotation_spans = np.empty((0, 2), dtype=np.int64)
    else:
        image_spans = file.spans("images")[by_id]
        annotation_spans = file.spans("annotations")[order]
    return AnnotatedImages(
        json_file=json_file,
        image_root=image_root,
        from_coco_url=from_coco_url,
        class_names=list(categories.values()),
        contiguous_ids=contiguous_ids,
        text=file.text,
        image_spans=image_spans,
        annotation_ranges=np.stack([np.array([0, *ends[:-1]]), ends], axis=1),
        annotation_spans=annotation_spans,
        is_wide=widths > heights,
        columns=columns,
    )


def _read_columns(
    file: AnnotationFile,
    sizes: dict[int, tuple[int, int]],
    contiguous_ids: dict[int, int],
    problems: Problems,
    classes_only: bool,
) -> tuple[AnnotationColumns, np.ndarray]:
    """
    Check all annotations, and note what is wrong with some.

    Returns:
        The columns, in ascending order of image id, and the place of each of their rows in the
        file, (A,) int64.
    """
    places = {image_id: place for place, image_id in enumerate(sorted(sizes))}
    usual_type: type[_Reference] = _Reference if classes_only else _Annotation
    decode = msgspec.json.Decoder(usual_type).decode
    ids: set[int] = set()
    images, classes, is_crowd = [], [], []
    for index, raw in enumerate(file.raw_entries("annotations")):
        try:
            usual = decode(raw)
            if (
                usual.id not in ids
                and usual.image_id in places
                and usual.category_id in contiguous_ids
                and usual.fits(sizes[usual.image_id])
            ):
                ids.add(usual.id)
                images.append(places[usual.image_id])
                classes.append(contiguous_ids[usual.category_id])
                is_crowd.append(usual.iscrowd == 1)
                continue
        except (ValueError, RecursionError):
            pass
        # Something is unusual, and perhaps wrong: the slow look, which can say what.
        entry = file.decode(raw)
        entry_id = entry.get("id") if isinstance(entry, dict) else None
        problem = id_problem("annotations", entry_id, ids)
        if problem is not None:
            problems.add(f"annotations[{index}]", problem)
            continue
        ids.add(entry["id"])
        problem = _annotation_problem(entry, sizes, contiguous_ids)
        problems.add(f"annotation {entry_id}", problem)
        if problem is None:
            images.append(places[entry["image_id"]])
            classes.append(contiguous_ids[entry["category_id"]])
            is_crowd.append(bool(entry.get("iscrowd")))
    order = np.argsort(images, kind="stable")
    columns = AnnotationColumns(
        images=np.array(images, dtype=np.int64)[order],
        classes=np.array(classes, dtype=np.int64)[order],
        is_crowd=np.array(is_crowd, dtype=bool)[order],
        num_images=len(sizes),
    )
    return columns, order


def category_names(file: AnnotationFile) -> dict[int, str]:
    """
    Name of each category id of an annotation file, in ascending order of id.

    Raises:
        ValueError: the "categories" are malformed. One line.
    """
    problems = Problems(file.json_file)
    names = {}
    for category in file.entries("categories", problems.add):
        problems.add(f"category {category['id']}", name_problem(category))
        names[category["id"]] = category.get("name")
    problems.raise_first()
    return dict(sorted(names.items()))


def _image_problem(
    image: dict[str, Any], category_ids: Container[int], from_coco_url: bool
) -> Problem | None:
    try:
        image_file_name(image, from_coco_url)
    except ValueError as error:
        return Problem("images without a usable file name", str(error))
    return image_problem(image, category_ids)


def _annotation_problem(
    annotation: dict[str, Any], sizes: dict[int, tuple[int, int]], category_ids: Container[int]
) -> Problem | None:
    problem = (
        reference_problem(annotation, "image_id", "images", sizes)
        or reference_problem(annotation, "category_id", "categories", category_ids)
        or box_problem(annotation.get("bbox"))
    )
    segmentation = annotation.get("segmentation")
    if problem is not None or not segmentation:
        return problem
    return segmentation_problem(segmentation, *sizes[annotation["image_id"]])


# Types of a usual annotation: what decodes has no problem, and its numbers are then forgotten.
_Coordinate = Annotated[float, msgspec.Meta(gt=-MAX_COORDINATE, lt=MAX_COORDINATE)]
_Polygon = Annotated[list[float], msgspec.Meta(min_length=6)]


class _Reference(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    iscrowd: Literal[0, 1] = 0

    def fits(self, size: tuple[int, int]) -> bool:
        return True


class _Rle(msgspec.Struct, gc=False):
    size: tuple[int, int]
    counts: Annotated[str, msgspec.Meta(min_length=1)]


class _Annotation(_Reference, kw_only=True, gc=False):
    bbox: tuple[_Coordinate, _Coordinate, _Coordinate, _Coordinate]
    segmentation: list[_Polygon] | _Rle | None = None

    def fits(self, size: tuple[int, int]) -> bool:
        """False where the mask is of another size than the image, or a polygon of odd length."""
        if isinstance(self.segmentation, _Rle):
            return self.segmentation.size == size
        return all(len(polygon) % 2 == 0 for polygon in self.segmentation or ())
