"""Class statistics and repeat factors of a training set, beside Detectron2's loops."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.data import print_instances_class_histogram
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.structures import BoxMode

from ..data.annotated_images import AnnotatedImages
from ..data.annotation_columns import annotation_columns
from ..data.class_statistics import ClassStatistics, count_classes
from ..data.train_sampler import repeat_factors
from .lvis_like_training_set import draw_annotations, long_tail
from .lvis_like_validation_set import NUM_TRAIN_IMAGES
from .measure import interleaved_seconds
from .row import Row

NUM_CLASSES = 1203
# (images, classes)
SIZES = (
    (1_000, NUM_CLASSES),
    (10_000, NUM_CLASSES),
    (NUM_TRAIN_IMAGES, 80),
    (NUM_TRAIN_IMAGES, NUM_CLASSES),
    (NUM_TRAIN_IMAGES, 13_000),
)
QUICK_SIZES = ((50, 80),)
THRESHOLD = 0.001


def rows(device: str, quick: bool) -> Iterator[Row]:
    """The rows of each size; nothing but on CPU."""
    if device != "cpu":
        return
    for num_images, num_classes in QUICK_SIZES if quick else SIZES:
        yield from _rows_of_size(num_images, num_classes, repetitions=1 if quick else 5)


def lvis_like_dicts(num_images: int, num_classes: int) -> list[dict[str, Any]]:
    """Dataset dicts as ``load_lvis_json`` returns them; all have the same box and mask."""
    rng = np.random.default_rng(0)
    images, classes = draw_annotations(long_tail(num_images, num_classes), num_images, rng)
    box, mask = [10.0, 10.0, 20.0, 20.0], [[10.0, 10.0, 30.0, 10.0, 30.0, 30.0]]
    dataset_dicts = [
        {"image_id": i, "file_name": f"{i}.jpg", "height": 480, "width": 640, "annotations": []}
        for i in range(num_images)
    ]
    for image, k in zip(images.tolist(), classes.tolist(), strict=True):
        dataset_dicts[image]["annotations"].append(
            {
                "bbox": box,
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": k,
                "segmentation": mask,
            }
        )
    return dataset_dicts


def as_loaded(dataset_dicts: list[dict[str, Any]]) -> AnnotatedImages:
    """What reading an annotation file gives, but without text."""
    none = np.zeros((len(dataset_dicts), 2), dtype=np.int64)
    columns = annotation_columns(dataset_dicts)
    is_wide = none[:, 0].astype(bool)
    return AnnotatedImages("", "", False, [], {}, b"", none, none, none, is_wide, columns)


def count_in_loops(
    dataset_dicts: list[dict[str, Any]], num_classes: int
) -> tuple[list[int], list[int]]:
    """Image and instance counts of each class, one annotation after the other."""
    image_counts, instance_counts = [0] * num_classes, [0] * num_classes
    for image in dataset_dicts:
        classes = [x["category_id"] for x in image["annotations"] if not x.get("iscrowd", 0)]
        for k in classes:
            instance_counts[k] += 1
        for k in set(classes):
            image_counts[k] += 1
    return image_counts, instance_counts


def _rows_of_size(num_images: int, num_classes: int, repetitions: int) -> Iterator[Row]:
    dataset_dicts = lvis_like_dicts(num_images, num_classes)
    loaded = as_loaded(dataset_dicts)
    class_names = [f"class_{k}" for k in range(num_classes)]

    def ours(dataset):
        factors = repeat_factors(annotation_columns(dataset), THRESHOLD)
        return count_classes(dataset, num_classes), factors

    def detectron2_factors():
        return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset_dicts, THRESHOLD
        )

    def loops():
        return count_in_loops(dataset_dicts, num_classes), detectron2_factors()

    def detectron2():
        print_instances_class_histogram(dataset_dicts, class_names)
        return detectron2_factors()

    peers = [
        (loops, "plain loops for image and instance counts, Detectron2's loops for factors"),
        (detectron2, "Detectron2's histogram of instances and loops for factors"),
    ]
    datasets = [
        (loaded, "as loaded", "reading the file put images and classes into arrays"),
        (dataset_dicts, "from dataset dicts", "gathered anew for each of the two"),
    ]
    expected = loops()
    num_annotations = len(loaded.columns.classes)
    for (dataset, source, note), (peer, against) in itertools.product(datasets, peers):
        function = functools.partial(ours, dataset)
        seconds, peer_seconds = interleaved_seconds([function, peer], repetitions, warm_up=1)
        yield Row(
            benchmark="class_statistics",
            work=f"class statistics and repeat factors, {source}",
            against=against,
            size=f"{num_images:,} images, {num_annotations:,} annotations, {num_classes:,} classes",
            parameters={"num_images": num_images, "num_classes": num_classes},
            seconds=seconds,
            peer_seconds=peer_seconds,
            time_limit=0.2 if num_images == NUM_TRAIN_IMAGES else None,
            identical=_are_identical(function(), expected),
            note=note,
        )


def _are_identical(
    found: tuple[ClassStatistics, torch.Tensor],
    expected: tuple[tuple[list[int], list[int]], torch.Tensor],
) -> bool:
    (statistics, factors), (counts, expected_factors) = found, expected
    found_counts = statistics.image_counts.tolist(), statistics.instance_counts.tolist()
    return found_counts == counts and torch.equal(factors, expected_factors)
