"""The training set of a config, read once at start and handed on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from .class_names import class_metadata
from .class_statistics import ClassStatistics, get_class_statistics, keep_statistics
from .same_categories import are_same_classes, logger
from .train_loader import _load_dataset


@dataclass(frozen=True, eq=False)
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
    Args:
        cfg: config whose datasets are registered.
        statistics_only: leave the images out, as for an evaluation.

    Returns:
        The training set; None where the config names neither ``DATASETS.TRAIN`` nor
        ``DATASETS.CLASS_STATISTICS``.

    Raises:
        ValueError: there is nothing to count or to draw, the number of classes does not fit, the
            datasets have different classes, or an annotation file is malformed. One line.
        FileNotFoundError: ``DATASETS.CLASS_STATISTICS`` does not exist.
    """
    names = tuple(cfg.DATASETS.TRAIN)
    if not names and not cfg.DATASETS.CLASS_STATISTICS:
        return None
    statistics = get_class_statistics(
        names, cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.DATASETS.CLASS_STATISTICS
    )
    if names and not cfg.DATASETS.CLASS_STATISTICS:
        keep_statistics(names, statistics)
    metadata = class_metadata(names[0]) if names else None
    return TrainingSet(
        names=names,
        images=_load_dataset(cfg) if names and not statistics_only else None,
        statistics=statistics,
        class_names=metadata["thing_classes"] if metadata else None,
        category_ids=metadata["category_ids"] if metadata else None,
    )


def check_same_categories(
    training_set: TrainingSet | None, test_classes: Mapping[str, Sequence[str] | None]
) -> None:
    """
    Check that training and test sets have the same class names, in the order of contiguous class
    ids. Where the names of either are unknown, there is nothing to check.

    Args:
        training_set: to train on; None where there is none.
        test_classes: class names of each dataset to evaluate on, by its name.

    Raises:
        ValueError: a dataset to evaluate on has other classes than one to train on (more than
            ``MAX_RENAMED`` of the names).
    """
    if training_set is None or not training_set.class_names or not training_set.names:
        return
    expected, train_name = training_set.class_names, training_set.names[0]
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
        first = next((i for i, name in enumerate(found) if name != expected[i]), None)
        if first is None:
            continue
        message = (
            f"DATASETS.TEST: class {first} is '{found[first]}' in dataset '{test_name}', "
            f"but '{expected[first]}' in '{train_name}' of DATASETS.TRAIN"
        )
        if not are_same_classes(found, expected):
            raise ValueError(message)
        logger.warning(message)
