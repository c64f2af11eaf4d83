"""
Checks for data that are well-formed but suspicious. Each is a function of a dataset's columns and
stands in ``CHECKS``; what it finds is a warning of ``python -m eql_seesaw.data.check``.
"""

from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .annotation_file import AnnotationFile
from .findings import shorten

# Boxes and polygons outside the image by at most this many pixels are rounding.
ROUNDING = 1.0


@dataclass(frozen=True, eq=False)
class Columns:
    """
    Columns of an annotation file: A annotations and N images in its order, K categories in
    ascending order of id.

    Attributes:
        is_train: whether the dataset is trained on.
        ids: (A,) int64, of the annotations.
        images: (A,) int64, index of each annotation's image.
        classes: (A,) int64, contiguous class ids.
        is_crowd: (A,) bool.
        boxes: (A, 4) float64 x, y, width, height in pixels.
        extents: (A, 4) float64, smallest x and y, largest x and y of the polygons; NaN without.
        image_ids: (N,) int64.
        sizes: (N, 2) int64, width and height.
        category_ids: K ids.
        class_names: K names.
    """

    is_train: bool
    ids: np.ndarray
    images: np.ndarray
    classes: np.ndarray
    is_crowd: np.ndarray
    boxes: np.ndarray
    extents: np.ndarray
    image_ids: np.ndarray
    sizes: np.ndarray
    category_ids: list[int]
    class_names: list[str]

    def annotation(self, row: int) -> str:
        """Name of an annotation, for a person."""
        width, height = self.sizes[self.images[row]]
        image_id = self.image_ids[self.images[row]]
        return f"annotation {self.ids[row]} in image {image_id} of {width} x {height}"


class Suspects(NamedTuple):
    """Outcome of a check: a kind, in the plural, the rows of that kind, and one row in words."""

    kind: str
    is_suspect: np.ndarray  # bool, one for each row
    describe: Callable[[int], str]


def empty_boxes(columns: Columns) -> Suspects:
    """Boxes without width or height, which Detectron2 leaves out in training."""
    return Suspects(
        "empty boxes",
        columns.boxes[:, 2:].min(axis=1) <= 0,
        lambda row: f"{columns.annotation(row)}: bbox {columns.boxes[row].tolist()}",
    )


def boxes_outside(columns: Columns) -> Suspects:
    """Boxes that leave the image, as those given by two corners do."""
    corners = np.hstack([columns.boxes[:, :2], columns.boxes[:, :2] + columns.boxes[:, 2:]])

    def describe(row: int) -> str:
        x, y, w, h = box = columns.boxes[row].tolist()
        width, height = columns.sizes[columns.images[row]]
        would_fit = 0 <= x < w <= width and 0 <= y < h <= height
        hint = ", which would fit as [x0, y0, x1, y1]" if would_fit else ""
        return f"{columns.annotation(row)}: bbox {box} [x, y, width, height]{hint}"

    return Suspects("boxes outside the image", _overshoot(columns, corners) > ROUNDING, describe)


def polygons_outside(columns: Columns) -> Suspects:
    """Polygons that leave the image."""
    overshoot = _overshoot(columns, columns.extents)
    return Suspects(
        "polygons outside the image",
        overshoot > ROUNDING,
        lambda row: f"{columns.annotation(row)}: polygon {overshoot[row]:.2f} pixels outside",
    )


def unlearnable_classes(columns: Columns) -> Suspects:
    """Classes of a training set without any object: the model can never learn to find them."""
    counts = np.bincount(columns.classes, minlength=len(columns.category_ids))
    return Suspects(
        "categories that cannot be learnt",
        counts == (0 if columns.is_train else -1),
        lambda k: f"category {columns.category_ids[k]}: {columns.class_names[k]} has no annotation",
    )


def repeated_class_names(columns: Columns) -> Suspects:
    """Names that several categories have."""
    counts = Counter(columns.class_names)
    return Suspects(
        "repeated category names",
        np.array([counts[name] > 1 for name in columns.class_names]),
        lambda k: f"category {columns.category_ids[k]}: {shorten(columns.class_names[k])}",
    )


CHECKS = (
    empty_boxes,
    boxes_outside,
    polygons_outside,
    unlearnable_classes,
    repeated_class_names,
)


def read_columns(file: AnnotationFile, is_train: bool) -> Columns:
    """Columns of the annotations that are well-formed; the others become the file's findings."""
    index_of = {image_id: index for index, image_id in enumerate(file.images)}
    class_of = {category_id: k for k, category_id in enumerate(file.categories)}
    ids, images, classes = array("q"), array("q"), array("q")
    is_crowd, boxes, extents = array("b"), array("d"), array("d")
    without_polygons = [np.nan] * 4
    for _, annotation in file.annotations():
        image = file.images[annotation.image_id]
        ids.append(annotation.id)
        images.append(index_of[annotation.image_id])
        classes.append(class_of[annotation.category_id])
        is_crowd.append(annotation.iscrowd)
        boxes.extend(annotation.box(image["height"], image["width"]))
        if annotation.segmentation and isinstance(annotation.segmentation, list):
            x = [x for polygon in annotation.segmentation for x in polygon[::2]]
            y = [y for polygon in annotation.segmentation for y in polygon[1::2]]
            extents.extend((min(x), min(y), max(x), max(y)))
        else:
            extents.extend(without_polygons)
    return Columns(
        is_train=is_train,
        ids=np.frombuffer(ids, dtype=np.int64),
        images=np.frombuffer(images, dtype=np.int64),
        classes=np.frombuffer(classes, dtype=np.int64),
        is_crowd=np.frombuffer(is_crowd, dtype=np.int8).astype(bool),
        boxes=np.frombuffer(boxes).reshape(-1, 4),
        extents=np.frombuffer(extents).reshape(-1, 4),
        image_ids=np.array(list(file.images), dtype=np.int64),
        sizes=np.array(
            [(image["width"], image["height"]) for image in file.images.values()], dtype=np.int64
        ).reshape(-1, 2),
        category_ids=list(file.categories),
        class_names=[category["name"] for category in file.categories.values()],
    )


def _overshoot(columns: Columns, corners: np.ndarray) -> np.ndarray:
    """(A,), pixels by which (A, 4) x0, y0, x1, y1 leave their images."""
    beyond = np.hstack([-corners[:, :2], corners[:, 2:] - columns.sizes[columns.images]])
    return beyond.max(axis=1, initial=-np.inf)
