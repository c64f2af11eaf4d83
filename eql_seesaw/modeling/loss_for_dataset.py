"""Losses for configs in Python, Detectron2's LazyConfig, which knows nothing of our YAML keys."""

from collections.abc import Sequence
from typing import Any

from detectron2.config import get_cfg

from ..config import add_long_tail_config
from ..data.training_set import class_statistics
from ..losses import ClassificationLoss, build_loss


def loss_for_dataset(
    name: str, dataset: str | Sequence[str], num_classes: int, **arguments: Any
) -> ClassificationLoss:
    """
    The loss of a box predictor, with the class counts of the dataset that it is trained on. The
    dataset is read and counted once in a process, however many predictors there are.

    Args:
        name: a key of :data:`eql_seesaw.losses.LOSSES`.
        dataset: a name registered with Detectron2, or several.
        num_classes: number of foreground classes K.
        arguments: the loss's own, as for :func:`eql_seesaw.losses.build_loss`.

    Raises:
        ValueError: the datasets have other classes, or nothing to count; or as ``build_loss``.
    """
    cfg = get_cfg()
    add_long_tail_config(cfg)
    cfg.DATASETS.TRAIN = (dataset,) if isinstance(dataset, str) else tuple(dataset)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    statistics = class_statistics(cfg)
    assert statistics is not None, "there is a dataset"
    return build_loss(
        name,
        num_classes,
        image_counts=statistics.image_counts,
        instance_counts=statistics.instance_counts,
        num_images=statistics.num_images,
        **arguments,
    )
