"""How many training images and instances each class has, and its LVIS frequency group."""

import functools
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.logger import log_first_n

from ..atomic_write import atomic_file
from .annotation_columns import annotation_columns
from .annotation_file import read_annotation_file
from .class_names import class_names, first_difference
from .class_statistics_cache import file_stamp, read_cache, write_cache
from .frequency_groups import frequency_groups
from .register import is_own_dataset, load_dataset

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """
    Counts over the training set, without crowd annotations.

    Attributes:
        image_counts: (K,) int64, number of training images that hold the class.
        instance_counts: (K,) int64, number of annotations of the class.
        num_images: number of training images with at least one annotation, the denominator of
            the frequency f_j in the equalization loss paper.
    """

    image_counts: np.ndarray
    instance_counts: np.ndarray
    num_images: int

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


def get_class_statistics(
    dataset_names: Sequence[str], num_classes: int, json_file: str = ""
) -> ClassStatistics:
    """
    Class statistics of a training set.

    They are counted once and cached beside each annotation file. A process that asks again for
    files that have not changed gets the same object: do not write into its arrays.

    Args:
        dataset_names: ``DATASETS.TRAIN``; the counts of several datasets are summed.
        num_classes: ``MODEL.ROI_HEADS.NUM_CLASSES``.
        json_file: ``DATASETS.CLASS_STATISTICS``. If not empty, the statistics are read from this
            file (see :func:`read_class_statistics`) and nothing is counted.

    Raises:
        ValueError: there is nothing to count, the number of classes does not fit, the datasets
            have different classes, or ``json_file`` is of a dataset with other classes.
        FileNotFoundError: ``json_file`` does not exist.
    """
    sources = tuple(map(_dataset_source, dataset_names))
    statistics = _get_class_statistics(
        tuple(dataset_names), num_classes, json_file, (*sources, file_stamp(json_file))
    )
    source = f"read from {json_file}" if json_file else f"of {', '.join(dataset_names)}"
    _log_statistics(statistics, source)
    return statistics


def class_statistics(cfg: CfgNode) -> ClassStatistics | None:
    """
    Statistics of the config's training set, for what Detectron2 builds from the config alone:
    those that :func:`~eql_seesaw.data.training_set.load_training_set` left in the metadata of the
    datasets, or else counted here. None without ``DATASETS.TRAIN`` and
    ``DATASETS.CLASS_STATISTICS``.
    """
    names, json_file = tuple(cfg.DATASETS.TRAIN), cfg.DATASETS.CLASS_STATISTICS
    if not names and not json_file:
        return None
    if names and not json_file:
        kept_names, statistics = MetadataCatalog.get(names[0]).get("class_statistics", ((), None))
        if kept_names == names and len(statistics.image_counts) == cfg.MODEL.ROI_HEADS.NUM_CLASSES:
            return statistics
    return get_class_statistics(names, cfg.MODEL.ROI_HEADS.NUM_CLASSES, json_file)


def keep_statistics(names: tuple[str, ...], statistics: ClassStatistics) -> None:
    """Leave the statistics of a training set in the metadata of its first dataset."""
    metadata = MetadataCatalog.get(names[0])
    if "class_statistics" in metadata.as_dict():  # which Detectron2 lets nobody overwrite
        del metadata.class_statistics
    metadata.class_statistics = names, statistics


@functools.lru_cache(maxsize=32)
def _get_class_statistics(
    dataset_names: tuple[str, ...], num_classes: int, json_file: str, sources: tuple
) -> ClassStatistics:
    """Once per process, until ``sources`` change, which stand for what there is to read."""
    if json_file:
        classes = {name: class_names(name) for name in dataset_names}
        for name, thing_classes in classes.items():
            _check_num_classes(name, thing_classes, num_classes)
        _check_same_classes(classes)
        try:
            return read_class_statistics(json_file, num_classes, classes)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"DATASETS.CLASS_STATISTICS: {error}") from None

    if not dataset_names:
        raise ValueError("DATASETS.TRAIN is empty: name a dataset to train on")
    parts, classes = [], {}
    for name in dataset_names:
        # Fails early where the classes are known without reading the annotations, as for LVIS.
        _check_num_classes(name, MetadataCatalog.get(name).get("thing_classes"), num_classes)
        statistics, classes[name] = _dataset_statistics(name, num_classes)
        parts.append(statistics)
    _check_same_classes(classes)
    return ClassStatistics(
        image_counts=cast(np.ndarray, sum(part.image_counts for part in parts)),
        instance_counts=cast(np.ndarray, sum(part.instance_counts for part in parts)),
        num_images=sum(part.num_images for part in parts),
    )


def _dataset_source(name: str) -> tuple:
    """What decides what a dataset holds: its file, or else the function that loads it."""
    json_file = MetadataCatalog.get(name).get("json_file", "")
    loader = None if is_own_dataset(name) else DatasetCatalog.data.get(name)
    return json_file, file_stamp(json_file), loader


def read_class_statistics(
    json_file: str,
    num_classes: int,
    train_classes: Mapping[str, Sequence[str] | None] | None = None,
) -> ClassStatistics:
    """
    Read statistics from a file as :func:`write_class_statistics` writes it: an object with
    "image_counts" and "instance_counts", K integers each in order of category id, "num_images",
    the number of annotated training images, and perhaps "thing_classes", K class names.

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
    content = read_annotation_file(json_file)
    statistics = _parse_statistics(content, json_file)
    if len(statistics.image_counts) != num_classes:
        raise ValueError(
            f"{json_file} holds the statistics of {len(statistics.image_counts)} classes, but "
            f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}; give the statistics of the dataset "
            "that is trained on"
        )
    if "thing_classes" in content:
        _check_train_classes(content["thing_classes"], json_file, train_classes or {}, num_classes)
    return statistics


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
    content = _to_json(statistics)
    if thing_classes is not None:
        content["thing_classes"] = list(thing_classes)
    with atomic_file(json_file) as f:
        json.dump(content, f)


def _dataset_statistics(name: str, num_classes: int) -> tuple[ClassStatistics, list[str] | None]:
    """The statistics of one dataset and its class names, from the cache where that is fresh."""
    json_file = MetadataCatalog.get(name).get("json_file", "")
    cached = _read_cached_statistics(json_file)
    if cached is not None:
        statistics, thing_classes = cached
        _check_num_classes(name, thing_classes, num_classes)
        return statistics, thing_classes

    # Taken before reading: a file that changes meanwhile makes the cache stale.
    stamp = file_stamp(json_file)
    dataset_dicts = load_dataset(name)
    thing_classes = MetadataCatalog.get(name).get("thing_classes")
    _check_num_classes(name, thing_classes, num_classes)
    try:
        statistics = count_classes(dataset_dicts, num_classes)
    except ValueError as error:
        raise ValueError(f"dataset '{name}': {error}") from None
    if statistics.num_images == 0:
        raise ValueError(f"DATASETS.TRAIN: dataset '{name}' has no annotations to train on")
    if stamp and thing_classes and comm.is_main_process():
        content = {**_to_json(statistics), "thing_classes": list(thing_classes)}
        write_cache(json_file, stamp, content)
    return statistics, thing_classes


def _read_cached_statistics(json_file: str) -> tuple[ClassStatistics, list[str]] | None:
    cache = read_cache(json_file)
    if cache is None:
        return None
    try:
        statistics = _parse_statistics(cache, json_file)
    except ValueError:
        return None
    if len(cache["thing_classes"]) != len(statistics.image_counts):
        return None
    return statistics, cache["thing_classes"]


def _check_num_classes(name: str, thing_classes: list[str] | None, num_classes: int) -> None:
    if thing_classes and len(thing_classes) != num_classes:
        count = len(thing_classes)
        raise ValueError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}, but dataset '{name}' has {count} "
            f"classes: set MODEL.ROI_HEADS.NUM_CLASSES to {count}, or train on another dataset"
        )


def _check_same_classes(classes: Mapping[str, Sequence[str] | None]) -> None:
    known = {name: names for name, names in classes.items() if names}
    for first, name in zip(known, list(known)[1:], strict=False):
        index = first_difference(known[first], known[name])
        if index is not None:
            raise ValueError(
                f"DATASETS.TRAIN: datasets '{first}' and '{name}' have different categories: class "
                f"{index} is '{known[first][index]}' in one and '{known[name][index]}' in the other"
            )


def _check_train_classes(
    thing_classes: Any,
    json_file: str,
    train_classes: Mapping[str, Sequence[str] | None],
    num_classes: int,
) -> None:
    if not isinstance(thing_classes, list) or len(thing_classes) != num_classes:
        raise ValueError(f"{json_file}: thing_classes is not a list of names, one per class")
    for name, expected in train_classes.items():
        if expected and (index := first_difference(thing_classes, expected)) is not None:
            raise ValueError(
                f"{json_file}: statistics of another dataset: class {index} is "
                f"'{thing_classes[index]}' there and '{expected[index]}' in '{name}'"
            )


def _log_statistics(statistics: ClassStatistics, source: str) -> None:
    """Once per process, as soon as there is a logger to hear it."""
    if not logger.isEnabledFor(logging.INFO):
        return
    groups = statistics.groups
    numbers = [groups.count(group) for group in "rcf"]
    message = (
        "Class statistics {}: {} rare, {} common, {} frequent classes; {} images, {} instances"
    ).format(source, *numbers, statistics.num_images, statistics.instance_counts.sum())
    log_first_n(logging.INFO, message, key="message")


def _to_json(statistics: ClassStatistics) -> dict[str, Any]:
    return {
        "image_counts": statistics.image_counts.tolist(),
        "instance_counts": statistics.instance_counts.tolist(),
        "num_images": int(statistics.num_images),
    }


def _parse_statistics(content: dict[str, Any], json_file: str) -> ClassStatistics:
    counts = {}
    for key in ("image_counts", "instance_counts"):
        values = content.get(key)
        if not isinstance(values, list) or not all(map(_is_count, values)):
            raise ValueError(f"{json_file}: {key} is not a list of integers from 0, one per class")
        counts[key] = np.array(values, dtype=np.int64)
    num_images = content.get("num_images")
    if len(counts["image_counts"]) != len(counts["instance_counts"]):
        raise ValueError(f"{json_file}: image_counts and instance_counts differ in length")
    if not _is_count(num_images) or num_images < max(counts["image_counts"], default=1):
        raise ValueError(
            f"{json_file}: num_images is {num_images!r}, expected the number of annotated images, "
            "at least the largest of image_counts"
        )
    if num_images == 0:
        raise ValueError(f"{json_file}: num_images is 0")
    return ClassStatistics(num_images=num_images, **counts)


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**63
