"""The training set of a config: read, checked and counted once at start, and then handed on."""

import dataclasses
import itertools
import logging
from collections.abc import Mapping, Sequence
from operator import ne
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    get_detection_dataset_dicts,
    print_instances_class_histogram,
)

from .annotated_images import AnnotatedImages, JoinedImages
from .annotation_file import NO_NEEDS, Needs
from .class_statistics import (
    ClassStatistics,
    count_classes,
    first_difference,
    read_class_statistics,
    summed_statistics,
)
from .dataset_checks import check_sample
from .fractal_dimensions import fractal_dimensions
from .register import class_metadata, is_own_dataset, read_dataset

logger = logging.getLogger(__name__)

# Up to this share of the classes may have another name: Detectron2 calls class 161 of LVIS v1
# "horned_cow", the file "bull". Other classes, or another order, change many more.
MAX_RENAMED = 0.01


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingSet:
    """
    Datasets to train on, as one.

    Attributes:
        names: ``DATASETS.TRAIN``.
        images: in Detectron2's standard format, those that training draws; None where only the
            statistics were asked for.
        statistics: counts of its classes.
        class_names: K names, in the order of contiguous class ids, where they are known.
        category_ids: K ids of the annotation file, in the same order, where they are known.
    """

    names: tuple[str, ...]
    images: Sequence[dict[str, Any]] | None
    statistics: ClassStatistics
    class_names: list[str] | None
    category_ids: list[int] | None


def load_training_set(cfg: CfgNode, statistics_only: bool = False) -> TrainingSet | None:
    """
    Read the annotation files of ``DATASETS.TRAIN``, and count their classes unless
    ``DATASETS.CLASS_STATISTICS`` names a file that says how many there are.

    Args:
        cfg: config whose datasets are registered.
        statistics_only: leave the images out, as for an evaluation.

    Returns:
        The training set; None where the config names neither ``DATASETS.TRAIN`` nor
        ``DATASETS.CLASS_STATISTICS``.

    Raises:
        ValueError: there is nothing to count or to draw, the number of classes does not fit, the
            datasets have different classes, or a file is malformed. One line.
        FileNotFoundError: ``DATASETS.CLASS_STATISTICS`` does not exist.
    """
    names, given_file = tuple(cfg.DATASETS.TRAIN), cfg.DATASETS.CLASS_STATISTICS
    num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if not names and not given_file:
        return None
    for name in names:  # early where the classes are known without the annotations, as for LVIS
        check_num_classes(name, MetadataCatalog.get(name).get("thing_classes"), num_classes)
    if statistics_only and given_file:
        parts = []
    else:
        parts = [_load_dataset(cfg, name, statistics_only) for name in names]
    metadata = [class_metadata(name) or {} for name in names]
    classes = {
        name: of_dataset.get("thing_classes")
        for name, of_dataset in zip(names, metadata, strict=True)
    }
    for name, thing_classes in classes.items():
        check_num_classes(name, thing_classes, num_classes)
    check_same_classes(classes)
    if not statistics_only:
        for name, part in zip(names, parts, strict=True):
            if isinstance(part, AnnotatedImages):
                check_sample(name, part, logger)

    if given_file:
        try:
            statistics = read_class_statistics(given_file, num_classes, classes)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"DATASETS.CLASS_STATISTICS: {error}") from None
        if _needs_dimensions(cfg) and statistics.fractal_dimensions is None:
            raise ValueError(
                f"DATASETS.CLASS_STATISTICS: {given_file} has no fractal_dimensions, which "
                "TEST.CALIBRATION.METHOD fracal needs; leave the key empty to count DATASETS.TRAIN"
            )
    else:
        statistics = summed_statistics(
            [_count(name, part, num_classes) for name, part in zip(names, parts, strict=True)]
        )
        if _needs_dimensions(cfg):
            dimensions = fractal_dimensions(itertools.chain(*parts), num_classes)
            statistics = dataclasses.replace(statistics, fractal_dimensions=dimensions)
        _keep_statistics(names, statistics)
    source = f"read from {given_file}" if given_file else f"of {', '.join(names)}"
    rare, common, frequent = (statistics.groups.count(group) for group in "rcf")
    logger.info(
        f"Class statistics {source}: {rare} rare, {common} common, {frequent} frequent classes; "
        f"{statistics.num_images} images, {statistics.instance_counts.sum()} instances"
    )
    return TrainingSet(
        names=names,
        images=None if statistics_only or not names else _drawn_images(cfg, parts),
        statistics=statistics,
        class_names=metadata[0].get("thing_classes") if names else None,
        category_ids=metadata[0].get("category_ids") if names else None,
    )


def class_statistics(cfg: CfgNode) -> ClassStatistics | None:
    """
    Statistics of the config's training set, for what Detectron2 builds from the config alone:
    those that :func:`load_training_set` left in the metadata of the first dataset, or else those
    that it counts now. None without ``DATASETS.TRAIN`` and ``DATASETS.CLASS_STATISTICS``.
    """
    names = tuple(cfg.DATASETS.TRAIN)
    if names and not cfg.DATASETS.CLASS_STATISTICS:
        kept_names, kept = MetadataCatalog.get(names[0]).get("class_statistics", ((), None))
        if kept_names == names and len(kept.image_counts) == cfg.MODEL.ROI_HEADS.NUM_CLASSES:
            if kept.fractal_dimensions is not None or not _needs_dimensions(cfg):
                return kept
    training_set = load_training_set(cfg, statistics_only=True)
    return None if training_set is None else training_set.statistics


def check_same_categories(
    train_name: str,
    expected: Sequence[str] | None,
    test_classes: Mapping[str, Sequence[str] | None],
) -> None:
    """
    Check that training and test sets have the same class names, in the order of contiguous class
    ids. Where the names of either are unknown, there is nothing to check.

    Args:
        train_name: of a dataset to train on.
        expected: its class names.
        test_classes: class names of each dataset to evaluate on, by its name.

    Raises:
        ValueError: a dataset to evaluate on has other classes than one to train on (more than
            :data:`MAX_RENAMED` of the names).
    """
    if not expected:
        return
    for test_name, found in test_classes.items():
        # Detectron2 has names of its own for LVIS, in which training and test sets agree.
        found = MetadataCatalog.get(test_name).get("thing_classes") or found
        if not found:
            continue
        if len(found) != len(expected):
            raise ValueError(
                f"DATASETS.TEST: dataset '{test_name}' has {len(found)} classes, but "
                f"'{train_name}' in DATASETS.TRAIN has {len(expected)}"
            )
        first = first_difference(found, expected)
        if first is None:
            continue
        message = (
            f"DATASETS.TEST: class {first} is '{found[first]}' in dataset '{test_name}', "
            f"but '{expected[first]}' in '{train_name}' of DATASETS.TRAIN"
        )
        if not are_same_classes(found, expected):
            raise ValueError(message)
        logger.warning(message)


def are_same_classes(names: Sequence[str], others: Sequence[str]) -> bool:
    """True for as many names, up to :data:`MAX_RENAMED` of them the same, in the same order."""
    if len(names) != len(others):
        return False
    return sum(map(ne, names, others)) <= MAX_RENAMED * len(names)


def check_num_classes(name: str, thing_classes: Sequence[str] | None, num_classes: int) -> None:
    """
    Raises:
        ValueError: a dataset to train on has another number of classes than the model.
    """
    if thing_classes and len(thing_classes) != num_classes:
        count = len(thing_classes)
        raise ValueError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}, but dataset '{name}' has {count} "
            f"classes: set MODEL.ROI_HEADS.NUM_CLASSES to {count}, or train on another dataset"
        )


def check_same_classes(classes: Mapping[str, Sequence[str] | None]) -> None:
    """
    Args:
        classes: class names of each dataset to train on, by its name, where known.

    Raises:
        ValueError: two of them have different names.
    """
    known = {name: names for name, names in classes.items() if names}
    for first, name in itertools.pairwise(known):
        index = first_difference(known[first], known[name])
        if index is not None:
            raise ValueError(
                f"DATASETS.TRAIN: datasets '{first}' and '{name}' have different categories: class "
                f"{index} is '{known[first][index]}' in one and '{known[name][index]}' in the other"
            )


def _needs_dimensions(cfg: CfgNode) -> bool:
    """True where fractal dimensions are asked for; they take a look at each box."""
    return cfg.TEST.CALIBRATION.METHOD == "fracal"


def _load_dataset(cfg: CfgNode, name: str, statistics_only: bool) -> Sequence[dict[str, Any]]:
    if is_own_dataset(name):
        return read_dataset(name, NO_NEEDS if statistics_only else Needs.of(cfg, is_train=True))
    if statistics_only:
        return DatasetCatalog.get(name)
    try:
        images = get_detection_dataset_dicts(name, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    except AssertionError as error:  # it is empty, or all of its images are
        raise ValueError(f"DATASETS.TRAIN: {str(error).splitlines()[0]}") from None
    if MetadataCatalog.get(name).get("evaluator_type") == "lvis" and not is_own_dataset(name):
        _make_negatives_contiguous(name, images)
    return images


def _make_negatives_contiguous(name: str, images: Sequence[dict[str, Any]]) -> None:
    """Detectron2's loader of LVIS leaves the file's category ids in "neg_category_ids"."""
    contiguous_ids = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id")
    for image in images:
        if "neg_category_ids" in image:
            image["neg_category_ids"] = [
                category_id - 1 if contiguous_ids is None else contiguous_ids[category_id]
                for category_id in image["neg_category_ids"]
            ]


def _count(name: str, images: Sequence[dict[str, Any]], num_classes: int) -> ClassStatistics:
    try:
        statistics = count_classes(images, num_classes)
    except ValueError as error:
        raise ValueError(f"dataset '{name}': {error}") from None
    if statistics.num_images == 0:
        raise ValueError(f"DATASETS.TRAIN: dataset '{name}' has no annotations to train on")
    return statistics


def _keep_statistics(names: tuple[str, ...], statistics: ClassStatistics) -> None:
    metadata = MetadataCatalog.get(names[0])
    if "class_statistics" in metadata.as_dict():  # which Detectron2 lets nobody overwrite
        del metadata.class_statistics
    metadata.class_statistics = names, statistics


def _drawn_images(cfg: CfgNode, parts: list[Sequence[dict[str, Any]]]) -> Sequence[dict[str, Any]]:
    """
    All datasets as one. Those of annotation files are treated as Detectron2's
    ``get_detection_dataset_dicts`` treats others, with its lines in the log.
    """
    own = [part for part in parts if isinstance(part, AnnotatedImages)]
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS and own:
        parts = [p.with_annotations() if isinstance(p, AnnotatedImages) else p for p in parts]
        num_images = sum(map(len, own))
        own = [part for part in parts if isinstance(part, AnnotatedImages)]
        num_left = sum(map(len, own))
        if not num_left:
            raise ValueError(f"DATASETS.TRAIN: {cfg.DATASETS.TRAIN}: no annotations to train on")
        logger.info(
            f"Removed {num_images - num_left} images with no usable annotations. "
            f"{num_left} images left."
        )
    if own:
        classes = [k for part in own for k in part.columns.without_crowds().classes.tolist()]
        annotations = [{"category_id": k} for k in range(max(classes, default=-1) + 1)]
        class_names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes
        print_instances_class_histogram(
            [{"annotations": [annotations[k] for k in classes]}], class_names
        )
    if len(parts) == 1:
        return parts[0]
    return JoinedImages(own) if len(own) == len(parts) else list(itertools.chain(*parts))
