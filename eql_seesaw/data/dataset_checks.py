"""
Checks for data that are well-formed but suspicious, as exporters write them. Each is a function of
a dataset's columns and stands in ``CHECKS``. ``python -m eql_seesaw.data.check`` looks at all of a
dataset, the start of a training at a sample.
"""

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_util

from .annotated_images import AnnotatedImages
from .annotation_entries import Annotation, Image, compressed_rle
from .findings import shorten
from .pictures import DEEP, TURNED, oddity_of_file

# Boxes and polygons outside the image by at most this many pixels are rounding.
ROUNDING = 1.0
# Images that the start of a training looks at; of the files of some of them, too.
NUM_SAMPLED_IMAGES, NUM_SAMPLED_FILES = 500, 32
# Share of suspicious rows in the sample from which a training mentions them, and from which those
# that cannot be meant end it.
SHARE_MENTIONED, SHARE_REFUSED = 0.05, 0.9


@dataclass(frozen=True, eq=False)
class Columns:
    """
    Columns of an annotation file, or of a sample of its images: A annotations, N images, and K
    categories in ascending order of id.

    Attributes:
        is_train: whether the dataset is trained on.
        ids: (A,) int64, of the annotations.
        images: (A,) int64, index of each annotation's image.
        classes: (A,) int64, contiguous class ids.
        is_crowd: (A,) bool.
        boxes: (A, 4) float64 x, y, width, height in pixels.
        extents: (A, 4) float64, smallest x and y, largest x and y of the masks; NaN without.
        areas: (A,) float64, as given; NaN without.
        image_ids: (N,) int64.
        sizes: (N, 2) int64, width and height.
        file_names: N names.
        class_names: K names, by category id.
    """

    is_train: bool
    ids: np.ndarray
    images: np.ndarray
    classes: np.ndarray
    is_crowd: np.ndarray
    boxes: np.ndarray
    extents: np.ndarray
    areas: np.ndarray
    image_ids: np.ndarray
    sizes: np.ndarray
    file_names: list[Any]
    class_names: dict[int, str]

    def describe(self, row: int) -> str:
        """Name of an annotation, for a person."""
        width, height = self.sizes[self.images[row]]
        image_id = self.image_ids[self.images[row]]
        return f"annotation {self.ids[row]} in image {image_id} of {width} x {height}"

    def describe_box(self, row: int) -> str:
        """The same, with its box."""
        return f"{self.describe(row)}: bbox {np.round(self.boxes[row], 4).tolist()}"

    def describe_class(self, k: int) -> str:
        """Id and name of a category."""
        category_id, name = list(self.class_names.items())[k]
        return f"category {category_id}: {shorten(name)}"


def make_columns(
    is_train: bool,
    images: Sequence[Image],
    class_names: dict[int, str],
    annotations: Iterable[tuple[int, Annotation]],
) -> Columns:
    """Columns of annotations, each given with the index of its image."""
    class_of = {category_id: k for k, category_id in enumerate(class_names)}

    def row(index: int, x: Annotation) -> tuple:
        box = x.box(images[index]["height"], images[index]["width"])
        area = np.nan if x.area is None else x.area
        extent = _extent(x.segmentation)
        return x.id, index, class_of[x.category_id], x.iscrowd, box, extent, area

    names, formats = "ids images classes is_crowd boxes extents areas", "i8 i8 i8 ? 4f8 4f8 f8"
    dtype = np.dtype({"names": names.split(), "formats": formats.split()})
    rows = np.fromiter((row(index, x) for index, x in annotations), dtype)
    columns: dict[str, Any] = {name: rows[name] for name in names.split()}
    sizes = [(image["width"], image["height"]) for image in images]
    return Columns(
        is_train=is_train,
        **columns,
        image_ids=np.array([image["id"] for image in images], dtype=np.int64),
        sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        file_names=[image.get("file_name") or image.get("coco_url") for image in images],
        class_names=class_names,
    )


def _extent(segmentation: Any) -> Iterable[float]:
    """Smallest x and y, largest x and y of a mask; NaN without."""
    if not segmentation:
        return [np.nan] * 4
    if isinstance(segmentation, list):
        x = [x for polygon in segmentation for x in polygon[::2]]
        y = [y for polygon in segmentation for y in polygon[1::2]]
        return min(x), min(y), max(x), max(y)
    x, y, width, height = mask_util.toBbox(
        compressed_rle(segmentation, *segmentation["size"])
    ).tolist()
    return x, y, x + width, y + height


class Suspects(NamedTuple):
    """
    Outcome of a check: a kind, in the plural, the rows of that kind, and one row in words. Rows are
    annotations, images or categories. Where nearly all are of a kind that cannot be meant, training
    is refused.
    """

    kind: str
    is_suspect: np.ndarray  # bool, one for each row
    describe: Callable[[int], str]
    cannot_be_meant: bool = False


def empty_boxes(columns: Columns) -> Suspects:
    """Boxes without width or height, which Detectron2 leaves out in training."""
    is_empty = columns.boxes[:, 2:].min(axis=1) <= 0
    return Suspects("empty boxes", is_empty, columns.describe_box)


def boxes_outside(columns: Columns) -> Suspects:
    """Boxes that leave the image, as those given by two corners do."""
    corners = np.hstack([columns.boxes[:, :2], columns.boxes[:, :2] + columns.boxes[:, 2:]])

    def describe(row: int) -> str:
        x, y, w, h = columns.boxes[row].tolist()
        width, height = columns.sizes[columns.images[row]]
        hint = ""
        if 0 <= x < w <= width and 0 <= y < h <= height:
            hint = ", which would fit as [x0, y0, x1, y1]"
        elif w / 2 <= x <= width - w / 2 and h / 2 <= y <= height - h / 2:
            hint = ", which would fit as [center x, center y, width, height]"
        return f"{columns.describe_box(row)} [x, y, width, height]{hint}"

    return Suspects("boxes outside the image", _overshoot(columns, corners) > ROUNDING, describe)


def polygons_outside(columns: Columns) -> Suspects:
    """Polygons that leave the image."""
    overshoot = _overshoot(columns, columns.extents)
    return Suspects(
        "polygons outside the image",
        overshoot > ROUNDING,
        lambda row: f"{columns.describe(row)}: polygon {overshoot[row]:.2f} pixels outside",
    )


def fractions(columns: Columns) -> Suspects:
    """Boxes in shares of the image, from 0 to 1."""
    corners = columns.boxes[:, :2] + columns.boxes[:, 2:]
    is_small: np.ndarray = (corners <= 1).all(axis=1) & (columns.boxes[:, 2:] > 0).all(axis=1)
    return Suspects(
        "boxes of less than a pixel, as with coordinates from 0 to 1",
        is_small & (columns.sizes[columns.images] > 8).all(axis=1),
        columns.describe_box,
        cannot_be_meant=True,
    )


def masks_elsewhere(columns: Columns) -> Suspects:
    """Masks that lie elsewhere than their boxes: polygons of y, x, or RLE in rows."""
    first = np.maximum(columns.extents[:, :2], columns.boxes[:, :2])
    last = np.minimum(columns.extents[:, 2:], columns.boxes[:, :2] + columns.boxes[:, 2:])
    common = (last - first).clip(min=0).prod(axis=1)
    mask = (columns.extents[:, 2:] - columns.extents[:, :2]).prod(axis=1)
    box = columns.boxes[:, 2:].clip(min=0).prod(axis=1)

    def describe(row: int) -> str:
        x0, y0, x1, y1 = columns.extents[row].tolist()
        extent = [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)]
        return f"{columns.describe_box(row)}, but its mask lies in {extent}"

    # Not of small objects, whose box may be rounded.
    is_elsewhere = (np.minimum(mask, box) > 64) & (common < 0.5 * (mask + box - common))
    return Suspects("masks that lie elsewhere than their boxes", is_elsewhere, describe)


def odd_areas(columns: Columns) -> Suspects:
    """Areas larger than the box, or next to nothing: APs, APm and APl would be others."""
    box = columns.boxes[:, 2:].clip(min=0).prod(axis=1)
    is_odd = (columns.areas > 1.05 * box + 16) | ((columns.areas < 1e-3 * box) & (box > 1024))
    return Suspects(
        "areas that do not fit their boxes",
        is_odd,
        lambda row: f"{columns.describe_box(row)}, but its area is {columns.areas[row]:g}",
    )


def whole_images(columns: Columns) -> Suspects:
    """Boxes of the whole image, where most are: labels of images, not of objects."""
    is_whole = (columns.boxes[:, 2:] >= 0.99 * columns.sizes[columns.images]).all(axis=1)
    return _if_most("boxes of the whole image", is_whole, columns.describe_box)


def crowds(columns: Columns) -> Suspects:
    """Crowds, on which nothing is trained, where most objects are."""
    kind = "crowds (iscrowd), which training leaves out"
    return _if_most(kind, columns.is_crowd & columns.is_train, columns.describe)


def repeated_objects(columns: Columns) -> Suspects:
    """Objects that are listed twice: image, class, box and extent of the mask are the same."""
    extents = np.nan_to_num(columns.extents, nan=-1)
    objects = np.column_stack([columns.images, columns.classes, columns.boxes, extents])
    _, first = np.unique(objects, axis=0, return_index=True)
    is_repeated = np.ones(len(objects), dtype=bool)
    is_repeated[first] = False
    return Suspects("objects that are listed twice", is_repeated, columns.describe_box)


def repeated_images(columns: Columns) -> Suspects:
    """Images whose file another image has, too."""
    counts = Counter(map(str, columns.file_names))
    return Suspects(
        "images that are listed twice",
        np.array([counts[str(name)] > 1 and bool(name) for name in columns.file_names], bool),
        lambda index: f"image {columns.image_ids[index]}: {shorten(columns.file_names[index])}",
    )


def background_classes(columns: Columns) -> Suspects:
    """Categories that are meant to be no object, which would be learnt like one."""
    names = [name.strip("_ ").lower() for name in columns.class_names.values()]
    return Suspects(
        "categories of the background",
        np.array([name in ("background", "bg") for name in names], bool),
        columns.describe_class,
    )


def repeated_class_names(columns: Columns) -> Suspects:
    """Names that several categories have."""
    counts = Counter(columns.class_names.values())
    return Suspects(
        "repeated category names",
        np.array([counts[name] > 1 for name in columns.class_names.values()], bool),
        columns.describe_class,
    )


# Those that a sample of images is enough for.
ANNOTATION_CHECKS = (
    empty_boxes,
    fractions,
    boxes_outside,
    polygons_outside,
    masks_elsewhere,
    odd_areas,
    whole_images,
    crowds,
    repeated_objects,
)
CHECKS = (*ANNOTATION_CHECKS, repeated_images, background_classes, repeated_class_names)


def check_sample(name: str, images: AnnotatedImages, logger: logging.Logger) -> None:
    """
    Look at a sample of the images of a training set, and log in one line what is suspicious.

    Raises:
        ValueError: of nearly all of them, a model could learn nothing that is meant. One line.
    """
    generator = random.Random(0)
    sample = sorted(generator.sample(range(len(images)), min(len(images), NUM_SAMPLED_IMAGES)))
    columns = make_columns(
        is_train=True,
        images=[images.image(i) for i in sample],
        class_names=dict(zip(images.contiguous_ids, images.class_names)),
        annotations=((row, x) for row, i in enumerate(sample) for x in images.annotations(i)),
    )
    outcomes = [check(columns) for check in ANNOTATION_CHECKS]
    files = [images[i] for i in generator.sample(sample, min(len(sample), NUM_SAMPLED_FILES))]
    oddities = [oddity_of_file(image) for image in files]
    for kind in (DEEP, TURNED):
        outcomes.append(
            Suspects(
                kind,
                np.array([found_kind == kind for found_kind, _ in oddities], bool),
                lambda row: f"image {files[row]['image_id']}: {oddities[row][1]}",
                cannot_be_meant=kind == DEEP,
            )
        )
    lines = []
    for kind, is_suspect, describe, cannot_be_meant in outcomes:
        rows = np.flatnonzero(is_suspect)
        if not len(rows) or len(rows) < SHARE_MENTIONED * len(is_suspect):
            continue
        line = f"{len(rows)} of {len(is_suspect)} are {kind}, such as {describe(int(rows[0]))}"
        if cannot_be_meant and len(rows) >= SHARE_REFUSED * len(is_suspect):
            raise ValueError(f"DATASETS.TRAIN: dataset '{name}': {line}")
        lines.append(line)
    if lines:
        logger.warning(
            f"dataset '{name}', in a sample of {len(sample)} images: {'; '.join(lines)}. "
            "python -m eql_seesaw.data.check looks at all of it"
        )


def _if_most(kind: str, is_suspect: np.ndarray, describe: Callable[[int], str]) -> Suspects:
    """Suspects, if they are more than half of the rows."""
    is_most = len(is_suspect) > 0 and is_suspect.mean() > 0.5
    return Suspects(kind, is_suspect & is_most, describe)


def _overshoot(columns: Columns, corners: np.ndarray) -> np.ndarray:
    """(A,), pixels by which (A, 4) x0, y0, x1, y1 leave their images."""
    beyond = np.hstack([-corners[:, :2], corners[:, 2:] - columns.sizes[columns.images]])
    return beyond.max(axis=1, initial=-np.inf)
