"""The training set of a config: read, checked and counted once at start, and then handed on."""

import dataclasses
import itertools
import logging
from collections.abc import Sequence
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
    fractal_dimensions,
    read_class_statistics,
)
from .dataset_checks import check_sample
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
        metadata: its classes, of :func:`~eql_seesaw.data.register.class_metadata`.
    """

    names: tuple[str, ...]
    images: Sequence[dict[str, Any]] | None
    statistics: ClassStatistics
    metadata: dict[str, list] | None

    @property
    def class_names(self) -> list[str] | None:
        """K names, in the order of contiguous class ids, where they are known."""
        return None if self.metadata is None else self.metadata["thing_classes"]


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
    if not names and not given_file:
        return None
    images: Sequence[dict[str, Any]] = ()
    if names and not (statistics_only and given_file):
        images = _joined([_load_dataset(cfg, name, statistics_only) for name in names])
    metadata = [class_metadata(name) for name in names]
    known = [
        (name, of_dataset["thing_classes"])
        for name, of_dataset in zip(names, metadata, strict=True)
        if of_dataset is not None
    ]
    for name, classes in known:
        check_num_classes(name, classes, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
        check_same_classes("DATASETS.TRAIN", name, classes, *known[0])
    if given_file:
        statistics = _given_statistics(cfg, known)
        source = f"read from {given_file}"
    else:
        statistics = _counted_statistics(cfg, images)
        source = f"of {', '.join(names)}"
    rare, common, frequent = (statistics.groups.count(group) for group in "rcf")
    logger.info(
        f"Class statistics {source}: {rare} rare, {common} common, {frequent} frequent classes; "
        f"{statistics.num_images} images, {statistics.instance_counts.sum()} instances"
    )
    has_images = bool(names) and not statistics_only
    training_set = TrainingSet(
        names, images if has_images else None, statistics, metadata[0] if names else None
    )
    if has_images:
        _log_histogram(images, training_set.class_names)
    return training_set


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


def check_same_classes(
    key: str, name: str, classes: Sequence[str], train_name: str, train_classes: Sequence[str]
) -> None:
    """
    Check that a dataset, or a file, has the class names of a dataset to train on, in the same
    order. A few other names, as :func:`are_same_classes` lets pass, are a warning.

    Args:
        key: config key that names the dataset or file, for the error.
        name: of the dataset or file.
        classes: its class names.
        train_name: of a dataset to train on.
        train_classes: its class names.

    Raises:
        ValueError: the classes are others.
    """
    if len(classes) != len(train_classes):
        raise ValueError(
            f"{key}: '{name}' has {len(classes)} classes, but '{train_name}' in DATASETS.TRAIN "
            f"has {len(train_classes)}"
        )
    first = next((k for k in range(len(classes)) if classes[k] != train_classes[k]), None)
    if first is None:
        return
    message = (
        f"{key}: class {first} is '{classes[first]}' in '{name}', but '{train_classes[first]}' in "
        f"'{train_name}' of DATASETS.TRAIN"
    )
    if not are_same_classes(classes, train_classes):
        raise ValueError(message)
    logger.warning(message)


def are_same_classes(names: Sequence[str], others: Sequence[str]) -> bool:
    """
    True for as many names, up to :data:`MAX_RENAMED` of them others, in the same order. A name that
    stands elsewhere in the other list is another order.
    """
    if len(names) != len(others):
        return False
    renamed = [pair for pair in zip(names, others, strict=True) if pair[0] != pair[1]]
    if len(renamed) > MAX_RENAMED * len(names):
        return False
    return not any(name in others or other in names for name, other in renamed)


def check_num_classes(name: str, classes: Sequence[str], num_classes: int) -> None:
    """
    Raises:
        ValueError: a dataset has another number of classes than the model.
    """
    count = len(classes)
    if count != num_classes:
        raise ValueError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {num_classes}, but dataset '{name}' has {count} "
            f"classes: set MODEL.ROI_HEADS.NUM_CLASSES to {count}, or take another dataset"
        )


def _load_dataset(cfg: CfgNode, name: str, statistics_only: bool) -> Sequence[dict[str, Any]]:
    """Images of a dataset; without those that hold nothing to train on, if the config says so."""
    is_filtered = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS and not statistics_only
    if is_own_dataset(name):
        needs = NO_NEEDS if statistics_only else Needs.of(cfg, is_train=True)
        images = read_dataset(name, needs)
        if not statistics_only:
            check_sample(name, images, logger)
        if is_filtered:
            num_images, images = len(images), images.with_annotations()
            logger.info(  # as Detectron2 says it of others
                f"Removed {num_images - len(images)} images with no usable annotations. "
                f"{len(images)} images left."
            )
            if not len(images):
                raise ValueError(f"DATASETS.TRAIN: {name}: no annotations to train on")
        return images
    if statistics_only:
        return DatasetCatalog.get(name)
    try:
        images = get_detection_dataset_dicts(name, is_filtered)
    except AssertionError as error:  # it is empty, or all of its images are
        raise ValueError(f"DATASETS.TRAIN: {str(error).splitlines()[0]}") from None
    if MetadataCatalog.get(name).get("evaluator_type") == "lvis":
        return _with_contiguous_negatives(name, images)
    return images


def _with_contiguous_negatives(name: str, images: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Detectron2's loader of LVIS leaves the file's category ids in "neg_category_ids"."""
    contiguous_ids = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id")
    result = []
    for image in images:
        if "neg_category_ids" in image:
            negatives = image["neg_category_ids"]
            negatives = [k - 1 if contiguous_ids is None else contiguous_ids[k] for k in negatives]
            image = {**image, "neg_category_ids": negatives}
        result.append(image)
    return result


def _given_statistics(cfg: CfgNode, known: Sequence[tuple[str, list[str]]]) -> ClassStatistics:
    """Statistics of ``DATASETS.CLASS_STATISTICS``; ``known`` has names and classes of datasets."""
    key, file = "DATASETS.CLASS_STATISTICS", cfg.DATASETS.CLASS_STATISTICS
    try:
        statistics, classes = read_class_statistics(file, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{key}: {error}") from None
    if classes and known:
        check_same_classes(key, file, classes, *known[0])
    if _needs_dimensions(cfg) and statistics.fractal_dimensions is None:
        raise ValueError(
            f"{key}: {file} has no fractal_dimensions, which TEST.CALIBRATION.METHOD fracal needs; "
            "leave the key empty to count DATASETS.TRAIN"
        )
    return statistics


def _counted_statistics(cfg: CfgNode, images: Sequence[dict[str, Any]]) -> ClassStatistics:
    """Statistics of the images of all datasets, left in the metadata of the first, too."""
    names, num_classes = tuple(cfg.DATASETS.TRAIN), cfg.MODEL.ROI_HEADS.NUM_CLASSES
    statistics = count_classes(images, num_classes)
    if statistics.num_images == 0:
        raise ValueError(f"DATASETS.TRAIN: {', '.join(names)}: no annotations to train on")
    if _needs_dimensions(cfg):
        dimensions = fractal_dimensions(images, num_classes)
        statistics = dataclasses.replace(statistics, fractal_dimensions=dimensions)
    metadata = MetadataCatalog.get(names[0])
    if "class_statistics" in metadata.as_dict():  # which Detectron2 lets nobody overwrite
        del metadata.class_statistics
    metadata.class_statistics = names, statistics
    return statistics


def _needs_dimensions(cfg: CfgNode) -> bool:
    """True where fractal dimensions are asked for; they take a look at each box."""
    return cfg.TEST.CALIBRATION.METHOD == "fracal"


def _joined(parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    are_own = all(isinstance(part, AnnotatedImages) for part in parts)
    return JoinedImages(parts) if are_own else list(itertools.chain(*parts))


def _log_histogram(images: Sequence[dict[str, Any]], class_names: list[str] | None) -> None:
    """Log the instances of annotation files, as Detectron2 has done it for other datasets."""
    if isinstance(images, AnnotatedImages | JoinedImages):
        assert class_names is not None, "an annotation file names them"
        annotations = [{"category_id": k} for k in range(len(class_names))]
        classes = images.columns.without_crowds().classes.tolist()
        print_instances_class_histogram(
            [{"annotations": [annotations[k] for k in classes]}], class_names
        )
