"""How many training images and instances each class has, and its LVIS frequency group."""

import errno
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.logger import log_first_n

from .frequency_groups import frequency_groups

logger = logging.getLogger(__name__)

CACHE_SUFFIX = ".class_statistics.json"


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
    pairs = np.array(
        [
            (index, annotation["category_id"])
            for index, image in enumerate(dataset_dicts)
            for annotation in image.get("annotations", ())
            if not annotation.get("iscrowd", 0)
        ],
        dtype=np.int64,
    ).reshape(-1, 2)
    images, classes = pairs.T
    outside = (classes < 0) | (classes >= num_classes)
    if outside.any():
        first = np.flatnonzero(outside)[0]
        raise ValueError(
            f"image {dataset_dicts[images[first]].get('image_id')} has class id {classes[first]}, "
            f"outside the {num_classes} classes from 0; check MODEL.ROI_HEADS.NUM_CLASSES"
        )
    # An image counts once for a class, however many instances of it there are.
    classes_in_images = np.unique(images * num_classes + classes) % num_classes
    return ClassStatistics(
        image_counts=np.bincount(classes_in_images, minlength=num_classes),
        instance_counts=np.bincount(classes, minlength=num_classes),
        num_images=len(np.unique(images)),
    )


def get_class_statistics(
    dataset_names: Sequence[str], num_classes: int, json_file: str = ""
) -> ClassStatistics:
    """
    Class statistics of a training set, counted once and cached beside each annotation file.

    Args:
        dataset_names: ``DATASETS.TRAIN``; the counts of several datasets are summed.
        num_classes: ``MODEL.ROI_HEADS.NUM_CLASSES``.
        json_file: ``DATASETS.CLASS_STATISTICS``. If not empty, the statistics are read from this
            file (see :func:`read_class_statistics`) and nothing is counted.

    Raises:
        ValueError: there is nothing to count, the number of classes does not fit, or the
            datasets have different classes.
        FileNotFoundError: ``json_file`` does not exist.
    """
    if json_file:
        try:
            statistics = read_class_statistics(json_file, num_classes)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"DATASETS.CLASS_STATISTICS: {error}") from None
        _log_statistics(statistics, f"read from {json_file}")
        return statistics

    if not dataset_names:
        raise ValueError("DATASETS.TRAIN is empty: name a dataset to train on")
    parts, classes = [], {}
    for name in dataset_names:
        # Fails early where the classes are known without reading the annotations, as for LVIS.
        _check_num_classes(name, MetadataCatalog.get(name).get("thing_classes"), num_classes)
        statistics, classes[name] = _dataset_statistics(name, num_classes)
        parts.append(statistics)
    _check_same_classes(classes)
    statistics = ClassStatistics(
        image_counts=sum(part.image_counts for part in parts),
        instance_counts=sum(part.instance_counts for part in parts),
        num_images=sum(part.num_images for part in parts),
    )
    _log_statistics(statistics, f"of {', '.join(dataset_names)}")
    return statistics


def read_class_statistics(json_file: str, num_classes: int) -> ClassStatistics:
    """
    Read statistics from a file as :func:`write_class_statistics` writes it: an object with
    "image_counts" and "instance_counts", K integers each in order of category id, and
    "num_images", the number of annotated training images.

    Raises:
        ValueError: the file is malformed or has another number of classes.
        FileNotFoundError: the file does not exist.
    """
    if not os.path.isfile(json_file):
        raise FileNotFoundError(f"no such file: {json_file}")
    statistics = _parse_statistics(_read_json(json_file), json_file)
    if len(statistics.image_counts) != num_classes:
        raise ValueError(
            f"{json_file} holds the statistics of {len(statistics.image_counts)} classes, but "
            f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}; give the statistics of the dataset "
            "that is trained on"
        )
    return statistics


def write_class_statistics(statistics: ClassStatistics, json_file: str) -> None:
    """Write statistics as JSON, whole or not at all."""
    _write_json(_to_json(statistics), json_file)


def _dataset_statistics(name: str, num_classes: int) -> tuple[ClassStatistics, list[str] | None]:
    """The statistics of one dataset and its class names, from the cache where that is fresh."""
    json_file = MetadataCatalog.get(name).get("json_file", "")
    # Taken before reading: a file that changes meanwhile makes the cache stale.
    stamp = _file_stamp(json_file)
    cached = _read_cache(json_file + CACHE_SUFFIX, stamp) if stamp else None
    if cached is not None:
        statistics, thing_classes = cached
        _check_num_classes(name, thing_classes, num_classes)
        return statistics, thing_classes

    dataset_dicts = DatasetCatalog.get(name)
    thing_classes = MetadataCatalog.get(name).get("thing_classes")
    _check_num_classes(name, thing_classes, num_classes)
    try:
        statistics = count_classes(dataset_dicts, num_classes)
    except ValueError as error:
        raise ValueError(f"dataset '{name}': {error}") from None
    if statistics.num_images == 0:
        raise ValueError(f"DATASETS.TRAIN: dataset '{name}' has no annotations to train on")
    if stamp and thing_classes and comm.is_main_process():
        cache = {**_to_json(statistics), "thing_classes": list(thing_classes), **stamp}
        _write_cache(cache, json_file + CACHE_SUFFIX)
    return statistics, thing_classes


def _check_num_classes(name: str, thing_classes: list[str] | None, num_classes: int) -> None:
    if thing_classes and len(thing_classes) != num_classes:
        count = len(thing_classes)
        raise ValueError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}, but dataset '{name}' has {count} "
            f"classes: set MODEL.ROI_HEADS.NUM_CLASSES to {count}, or train on another dataset"
        )


def _check_same_classes(classes: dict[str, list[str] | None]) -> None:
    known = {name: names for name, names in classes.items() if names}
    for first, name in zip(known, list(known)[1:], strict=False):
        for index, (a, b) in enumerate(zip(known[first], known[name], strict=True)):
            if a != b:
                raise ValueError(
                    f"DATASETS.TRAIN: datasets '{first}' and '{name}' have different categories: "
                    f"class {index} is '{a}' in one and '{b}' in the other"
                )


def _log_statistics(statistics: ClassStatistics, source: str) -> None:
    groups = statistics.groups
    logger.info(
        "Class statistics %s: %d rare, %d common, %d frequent classes; %d images, %d instances",
        source,
        *(groups.count(group) for group in "rcf"),
        statistics.num_images,
        statistics.instance_counts.sum(),
    )


def _file_stamp(json_file: str) -> dict[str, int] | None:
    if not os.path.isfile(json_file):
        return None
    stat = os.stat(json_file)
    return {"annotation_file_size": stat.st_size, "annotation_file_mtime_ns": stat.st_mtime_ns}


def _read_cache(cache_file: str, stamp: dict[str, int]) -> tuple[ClassStatistics, list[str]] | None:
    try:
        content = _read_json(cache_file)
        statistics = _parse_statistics(content, cache_file)
    except (OSError, ValueError):
        return None
    thing_classes = content.get("thing_classes")
    fresh = all(content.get(key) == value for key, value in stamp.items())
    complete = isinstance(thing_classes, list) and len(thing_classes) == len(
        statistics.image_counts
    )
    if not fresh or not complete:
        return None
    return statistics, thing_classes


def _write_cache(content: dict[str, Any], cache_file: str) -> None:
    try:
        # The superuser may write everywhere, but a folder marked read-only is meant to stay as is.
        if not os.stat(os.path.dirname(cache_file) or ".").st_mode & 0o222:
            raise PermissionError(errno.EACCES, "the folder is read-only")
        _write_json(content, cache_file)
    except OSError as error:
        message = f"No {cache_file} ({error.strerror}): classes are counted at each start"
        log_first_n(logging.INFO, message, key="message")


def _to_json(statistics: ClassStatistics) -> dict[str, Any]:
    return {
        "image_counts": statistics.image_counts.tolist(),
        "instance_counts": statistics.instance_counts.tolist(),
        "num_images": int(statistics.num_images),
    }


def _read_json(json_file: str) -> Any:
    with open(json_file, "rb") as f:
        try:
            return json.loads(f.read())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{json_file}: not JSON, or not complete: {error}") from None


def _write_json(content: dict[str, Any], json_file: str) -> None:
    temporary = f"{json_file}.{os.getpid()}.tmp"
    try:
        with open(temporary, "w") as f:
            json.dump(content, f)
        os.replace(temporary, json_file)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _parse_statistics(content: Any, json_file: str) -> ClassStatistics:
    if not isinstance(content, dict):
        raise ValueError(f"{json_file}: holds no object with image_counts")
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


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63
