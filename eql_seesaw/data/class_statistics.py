"""Number of training images and instances of each class, and what follows from them."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from detectron2.structures import BoxMode

from ..atomic_write import atomic_file
from .frequency_groups import frequency_groups

# Of fractal dimensions: cells along a side of the finest grid.
MAX_GRID = 64
# With fewer instances the dimension is 1, the smallest.
MIN_INSTANCES = 4


class AnnotationColumns(NamedTuple):
    """
    Columns of a dataset's annotations for class statistics and samplers, image after image.

    Attributes:
        images: (A,) int64, index of each annotation's image, ascending.
        classes: (A,) int64, contiguous class ids.
        is_crowd: (A,) bool.
        num_images: number of images, those without annotations too.
    """

    images: np.ndarray
    classes: np.ndarray
    is_crowd: np.ndarray
    num_images: int

    def without_crowds(self) -> "AnnotationColumns":
        """Without the annotations of crowds; all images stay."""
        images, classes, is_crowd = (column[~self.is_crowd] for column in self[:3])
        return AnnotationColumns(images, classes, is_crowd, self.num_images)

    def of_images(self, keep: np.ndarray) -> "AnnotationColumns":
        """Columns of the images where ``keep``, (num_images,) bool, is True."""
        kept = keep[self.images]
        return AnnotationColumns(
            images=(np.cumsum(keep) - 1)[self.images[kept]],
            classes=self.classes[kept],
            is_crowd=self.is_crowd[kept],
            num_images=int(keep.sum()),
        )

    def classes_of_images(self) -> tuple[np.ndarray, np.ndarray]:
        """
        Images and classes, (P,) int64 each, where an image has a class only once, however many
        instances it has. In ascending order of class, then of image.
        """
        pairs = np.sort(self.classes * self.num_images + self.images)
        # Many times faster than np.unique.
        pairs = pairs[np.diff(pairs, prepend=pairs[:1] - 1) > 0]
        classes, images = np.divmod(pairs, max(self.num_images, 1))
        return images, classes


def joined_columns(columns: Sequence[AnnotationColumns]) -> AnnotationColumns:
    """Columns of datasets whose images come one after the other."""
    *starts, num_images = np.cumsum([0, *(c.num_images for c in columns)]).tolist()
    return AnnotationColumns(
        images=np.concatenate([c.images + i for c, i in zip(columns, starts, strict=True)]),
        classes=np.concatenate([c.classes for c in columns]),
        is_crowd=np.concatenate([c.is_crowd for c in columns]),
        num_images=num_images,
    )


def annotation_columns(dataset_dicts: Sequence[dict[str, Any]]) -> AnnotationColumns:
    """
    The columns of a dataset in Detectron2's standard format; those that it keeps itself, in its
    ``columns``, as :class:`~eql_seesaw.data.annotated_images.AnnotatedImages` does.
    """
    columns = getattr(dataset_dicts, "columns", None)
    if columns is not None:
        return columns
    annotations = [image.get("annotations", ()) for image in dataset_dicts]
    # Two plain loops, since these take nearly all the time.
    classes = [x["category_id"] for of_image in annotations for x in of_image]
    is_crowd = [x["iscrowd"] if "iscrowd" in x else 0 for of_image in annotations for x in of_image]
    return AnnotationColumns(
        images=np.repeat(np.arange(len(annotations)), [len(of_image) for of_image in annotations]),
        classes=np.array(classes, dtype=np.int64),
        is_crowd=np.array(is_crowd, dtype=bool),
        num_images=len(annotations),
    )


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """
    Counts over the training set, without crowd annotations.

    Attributes:
        image_counts: (K,) int64, number of training images that hold the class.
        instance_counts: (K,) int64, number of annotations of the class.
        num_images: number of training images with at least one annotation, the denominator of
            the frequency f_j in the equalization loss paper.
        fractal_dimensions: (K,) float64, of :func:`fractal_dimensions`; None where nobody has asked
            for them.
    """

    image_counts: np.ndarray
    instance_counts: np.ndarray
    num_images: int
    fractal_dimensions: np.ndarray | None = None

    @property
    def groups(self) -> list[str]:
        """K times "r", "c" or "f". A class without any training image counts as rare."""
        return frequency_groups(self.image_counts)


def count_classes(dataset_dicts: Sequence[dict[str, Any]], num_classes: int) -> ClassStatistics:
    """
    Count images and instances per class, leaving crowd annotations (``iscrowd`` = 1) out.

    Args:
        dataset_dicts: dataset in Detectron2's standard format, with contiguous class ids.
        num_classes: number of foreground classes K.

    Raises:
        ValueError: a class id is outside [0, K).
    """
    columns = annotation_columns(dataset_dicts).without_crowds()
    images, classes = columns.images, columns.classes
    outside = (classes < 0) | (classes >= num_classes)
    if outside.any():
        first = np.flatnonzero(outside)[0]
        raise ValueError(
            f"image {dataset_dicts[images[first]].get('image_id')} has class id {classes[first]}, "
            f"outside the {num_classes} classes from 0; check MODEL.ROI_HEADS.NUM_CLASSES"
        )
    _, classes_in_images = columns.classes_of_images()
    return ClassStatistics(
        image_counts=np.bincount(classes_in_images, minlength=num_classes),
        instance_counts=np.bincount(classes, minlength=num_classes),
        num_images=int(np.count_nonzero(np.bincount(images))),
    )


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _StatisticsFile(msgspec.Struct):
    image_counts: list[_Count]
    instance_counts: list[_Count]
    num_images: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    thing_classes: list[str] | None = None
    fractal_dimensions: list[Annotated[float, msgspec.Meta(ge=1, le=2)]] | None = None


def read_class_statistics(
    json_file: str, num_classes: int
) -> tuple[ClassStatistics, list[str] | None]:
    """
    Read statistics from a file as :func:`write_class_statistics` writes it: an object with
    "image_counts" and "instance_counts", K integers each in order of category id, "num_images",
    the number of annotated training images, and perhaps "thing_classes", K class names, and
    "fractal_dimensions", K numbers.

    Returns:
        The statistics, and the class names if the file has them.

    Raises:
        ValueError: the file is malformed, or of another number of classes.
        OSError: the file cannot be read.
    """
    with open(json_file, "rb") as f:
        text = f.read()
    try:
        content = msgspec.structs.asdict(msgspec.json.decode(text, type=_StatisticsFile))
    except ValueError as error:
        raise ValueError(f"{json_file}: {error}") from None
    for key, value in content.items():
        if isinstance(value, list) and len(value) != num_classes:
            raise ValueError(
                f"{json_file}: {key} are those of {len(value)} classes, but "
                f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}"
            )
    if content["num_images"] < max(content["image_counts"]):
        raise ValueError(
            f"{json_file}: num_images is {content['num_images']}, expected the number of annotated "
            "images, at least the largest of image_counts"
        )
    thing_classes = content.pop("thing_classes")
    arrays: dict[str, Any] = {
        k: np.array(v) if isinstance(v, list) else v for k, v in content.items()
    }
    return ClassStatistics(**arrays), thing_classes


def write_class_statistics(
    statistics: ClassStatistics, json_file: str, thing_classes: Sequence[str] | None = None
) -> None:
    """
    Write statistics as JSON, whole or not at all; with class names, (K,), so that the file is not
    taken for another dataset's.
    """
    content = {key: value for key, value in vars(statistics).items() if value is not None}
    if thing_classes is not None:
        content["thing_classes"] = list(thing_classes)
    with atomic_file(json_file) as f:
        json.dump(content, f, default=lambda array: array.tolist())


def fractal_dimensions(dataset_dicts: Iterable[Mapping[str, Any]], num_classes: int) -> np.ndarray:
    """
    Box-counting dimension of the box centres of each class, from 1 (they lie along a line, or are
    few) to 2 (everywhere), as in the released code of https://arxiv.org/abs/2410.11774: the slope
    of log(occupied cells) over log(g), by least squares, of grids of g x g cells over the image
    with g up to 64 and g^2 up to the number of instances.

    Args:
        dataset_dicts: dataset in Detectron2's standard format, with contiguous class ids. Crowds
            are left out.
        num_classes: K.

    Returns:
        float64 (K,).
    """
    classes, centres = _box_centres(dataset_dicts)
    counts = np.bincount(classes, minlength=num_classes)
    grids = np.arange(1, min(MAX_GRID, int(counts.max(initial=1) ** 0.5)) + 1)
    occupied = np.stack([_occupied_cells(classes, centres, g, num_classes) for g in grids.tolist()])
    dimensions = np.ones(num_classes)
    for k in np.flatnonzero(counts >= MIN_INSTANCES):
        is_used = grids**2 <= counts[k]
        slope, _ = np.polyfit(np.log(grids[is_used]), np.log(occupied[is_used, k]), deg=1)
        dimensions[k] = max(slope, 1.0)
    return dimensions


def _occupied_cells(
    classes: np.ndarray, centres: np.ndarray, grid: int, num_classes: int
) -> np.ndarray:
    """Cells of a grid that hold a centre of each class, (K,)."""
    columns, rows = np.clip((centres * grid).astype(np.int64), 0, grid - 1).T
    cells = np.unique((classes * grid + rows) * grid + columns)
    return np.bincount(cells // grid**2, minlength=num_classes)


def _box_centres(dataset_dicts: Iterable[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Class (A,) and box centre (A, 2) of each object, x and y as shares of the image's size."""
    by_mode: defaultdict[BoxMode, list[tuple]] = defaultdict(list)
    for image in dataset_dicts:
        size = image["width"], image["height"]
        for annotation in image.get("annotations", ()):
            if not annotation.get("iscrowd", 0):
                row = (annotation["category_id"], *size, *annotation["bbox"])
                by_mode[annotation["bbox_mode"]].append(row)
    classes, centres = [np.empty(0, np.int64)], [np.empty((0, 2))]
    for mode, rows in by_mode.items():
        columns = np.array(rows, dtype=np.float64)
        boxes = BoxMode.convert(columns[:, 3:], mode, BoxMode.XYXY_ABS)
        classes.append(columns[:, 0].astype(np.int64))
        centres.append((boxes[:, :2] + boxes[:, 2:]) / 2 / columns[:, 1:3])
    return np.concatenate(classes), np.concatenate(centres)
