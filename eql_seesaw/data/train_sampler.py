"""The choice of DATALOADER.SAMPLER_TRAIN, and what it makes of the training set."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data.samplers import RepeatFactorTrainingSampler
from torch.utils.data import Sampler

from .class_aware_sampler import ClassAwareTrainingSampler

logger = logging.getLogger(__name__)

# Samplers that look at annotations, and are built here. Others are left to Detectron2.
SAMPLERS = ("RepeatFactorTrainingSampler", "ClassAwareTrainingSampler")


def build_train_sampler(cfg: CfgNode, dataset_dicts: Sequence[dict[str, Any]]) -> Sampler:
    """
    The sampler that DATALOADER.SAMPLER_TRAIN names. Logs in one line what it does to the data, so
    that iterations can be read as epochs.

    Args:
        cfg: DATALOADER.SAMPLER_TRAIN is one of :data:`SAMPLERS`.
        dataset_dicts: training set in Detectron2's standard format.
    """
    name, num_images = cfg.DATALOADER.SAMPLER_TRAIN, len(dataset_dicts)
    seed = cfg.SEED if cfg.SEED >= 0 else None
    drawn = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH
    training = f"training draws {drawn:,}"
    if name == "ClassAwareTrainingSampler":
        sampler = ClassAwareTrainingSampler(dataset_dicts, seed)
        logger.info(
            f"{name}: {len(sampler.images):,} classes with images are drawn equally often; "
            f"{training}, {drawn / num_images:.3g} times the {num_images:,} images"
        )
        return sampler
    threshold = cfg.DATALOADER.REPEAT_THRESHOLD
    with _without_line_per_category():
        repeat_factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dataset_dicts, threshold, sqrt=cfg.DATALOADER.REPEAT_SQRT
        )
    epoch = repeat_factors.double().sum().item()
    logger.info(
        f"{name}: with threshold {threshold:g} an epoch over {num_images:,} images has "
        f"{epoch:,.0f}; {training}, {drawn / epoch:.3g} such epochs"
    )
    return RepeatFactorTrainingSampler(repeat_factors, seed=seed)


@contextlib.contextmanager
def _without_line_per_category() -> Iterator[None]:
    sampler_logger = logging.getLogger(RepeatFactorTrainingSampler.__module__)
    level = sampler_logger.level
    sampler_logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        sampler_logger.setLevel(level)
