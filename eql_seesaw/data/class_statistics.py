"""Number of training images and instances of each class, and its LVIS frequency group."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np

from ..atomic_write import atomic_file
from .annotation_columns import annotation_columns
from .frequency_groups import frequency_groups


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """
    Counts over the training set, without crowd annotations.

    Attributes:
        image_counts: (K,) int64, number of training images that hold the class.
        instance_counts: (K,) int64, number of annotations of the class.
        num_images: number of training images with at least one annotation, the denominator of
            the frequency f_j in the equalization loss paper.
        fractal_dimensions: (K,) float64, of :func:`~.fractal_dimensions.fractal_dimensions`; None
            where nobody has asked for them.
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


def summed_statistics(parts: Sequence[ClassStatistics]) -> ClassStatistics:
    """Statistics of several datasets with the same classes, as one."""
    return ClassStatistics(
        image_counts=np.sum([part.image_counts for part in parts], axis=0),
        instance_counts=np.sum([part.instance_counts for part in parts], axis=0),
        num_images=sum(part.num_images for part in parts),
    )


def read_class_statistics(
    json_file: str,
    num_classes: int,
    train_classes: Mapping[str, Sequence[str] | None] | None = None,
) -> ClassStatistics:
    """
    Read statistics from a file as :func:`write_class_statistics` writes it: an object with
    "image_counts" and "instance_counts", K integers each in order of category id, "num_images",
    the number of annotated training images, and perhaps "thing_classes", K class names, and
    "fractal_dimensions", K numbers.

    Args:
        json_file: the file.
        num_classes: number of foreground classes K.
        train_classes: class names of each dataset that is trained on, by its name, where known.
            They must be those of the file, if it has any.

    Raises:
        ValueError: the file is malformed or has other classes.
        FileNotFoundError: the file does not exist.
    """
    if not os.path.isfile(json_file):
        raise FileNotFoundError(f"no such file: {json_file}")
    with open(json_file, "rb") as f:
        text = f.read()
    try:
        content = msgspec.json.decode(text, type=_StatisticsFile)
    except ValueError as error:
        raise ValueError(f"{json_file}: {error}") from None
    image_counts, thing_classes = content.image_counts, content.thing_classes
    if len(image_counts) != len(content.instance_counts):
        raise ValueError(f"{json_file}: image_counts and instance_counts differ in length")
    if content.num_images < max(image_counts, default=1):
        raise ValueError(
            f"{json_file}: num_images is {content.num_images}, expected the number of annotated "
            "images, at least the largest of image_counts"
        )
    if len(image_counts) != num_classes:
        raise ValueError(
            f"{json_file} holds the statistics of {len(image_counts)} classes, but "
            f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}; give the statistics of the dataset "
            "that is trained on"
        )
    if thing_classes is not None and len(thing_classes) != num_classes:
        raise ValueError(f"{json_file}: thing_classes is not a list of names, one per class")
    dimensions = content.fractal_dimensions
    if dimensions is not None and len(dimensions) != num_classes:
        raise ValueError(f"{json_file}: fractal_dimensions is not a list of numbers, one per class")
    for name, expected in (train_classes or {}).items():
        if not thing_classes or not expected:
            continue
        index = first_difference(thing_classes, expected)
        if index is not None:
            raise ValueError(
                f"{json_file}: statistics of another dataset: class {index} is "
                f"'{thing_classes[index]}' there and '{expected[index]}' in '{name}'"
            )
    return ClassStatistics(
        image_counts=np.array(image_counts, dtype=np.int64),
        instance_counts=np.array(content.instance_counts, dtype=np.int64),
        num_images=content.num_images,
        fractal_dimensions=None if dimensions is None else np.array(dimensions),
    )


def write_class_statistics(
    statistics: ClassStatistics, json_file: str, thing_classes: Sequence[str] | None = None
) -> None:
    """
    Write statistics as JSON, whole or not at all.

    Args:
        statistics: to be written.
        json_file: the file.
        thing_classes: (K,) class names, so that the file is not taken for another dataset's.
    """
    content: dict[str, Any] = {
        "image_counts": statistics.image_counts.tolist(),
        "instance_counts": statistics.instance_counts.tolist(),
        "num_images": int(statistics.num_images),
    }
    if statistics.fractal_dimensions is not None:
        content["fractal_dimensions"] = statistics.fractal_dimensions.tolist()
    if thing_classes is not None:
        content["thing_classes"] = list(thing_classes)
    with atomic_file(json_file) as f:
        json.dump(content, f)


def first_difference(names: Sequence[str], other_names: Sequence[str]) -> int | None:
    """First class that two lists of as many names call differently, None if they are equal."""
    pairs = enumerate(zip(names, other_names, strict=True))
    return next((index for index, (name, other) in pairs if name != other), None)


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _StatisticsFile(msgspec.Struct):
    image_counts: list[_Count]
    instance_counts: list[_Count]
    num_images: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    thing_classes: list[str] | None = None
    fractal_dimensions: list[Annotated[float, msgspec.Meta(ge=1, le=2)]] | None = None
