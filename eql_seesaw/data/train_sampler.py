"""The choice of DATALOADER.SAMPLER_TRAIN, and what it makes of the training set."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from torch.utils.data import Sampler

from .annotation_columns import annotation_columns
from .class_aware_sampler import ClassAwareTrainingSampler
from .repeat_factors import repeat_factors

logger = logging.getLogger(__name__)


def build_train_sampler(
    cfg: CfgNode, dataset_dicts: Sequence[dict[str, Any]]
) -> Callable[[int], Sampler]:
    """
    The sampler that DATALOADER.SAMPLER_TRAIN names. Logs in one line what it does to the data, so
    that iterations can be read as epochs.

    Args:
        cfg: DATALOADER.SAMPLER_TRAIN is one of ``eql_seesaw.config.TRAIN_SAMPLERS``.
        dataset_dicts: training set in Detectron2's standard format.

    Returns:
        A function from the seed, the same in all processes, to the sampler of this process, which
        gives indices into ``dataset_dicts`` without end. It does not keep ``dataset_dicts``.

    Raises:
        ValueError: there are no annotations to sample by, or the subset is empty.
    """
    name, size = cfg.DATALOADER.SAMPLER_TRAIN, len(dataset_dicts)
    drawn = cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH
    training = f"training draws {drawn:,}"
    if name == "TrainingSampler":
        logger.info(f"{name}: {training}, {drawn / size:.3g} times the {size:,} images")
        return lambda seed: TrainingSampler(size, seed=seed)
    if name == "RandomSubsetTrainingSampler":
        ratio, subset = cfg.DATALOADER.RANDOM_SUBSET_RATIO, _subset_size(cfg, size)
        logger.info(
            f"{name}: {training}, {drawn / subset:.3g} times {subset:,} of the {size:,} images"
        )
        return lambda seed: RandomSubsetTrainingSampler(
            size, ratio, seed_shuffle=seed, seed_subset=seed
        )
    if name == "ClassAwareTrainingSampler":
        class_images = ClassAwareTrainingSampler.images_of_classes(dataset_dicts)
        logger.info(
            f"{name}: {len(class_images):,} classes with images are drawn equally often; "
            f"{training}, {drawn / size:.3g} times the {size:,} images"
        )
        return lambda seed: ClassAwareTrainingSampler(class_images, seed)
    if name != "RepeatFactorTrainingSampler":
        raise ValueError(f"DATALOADER.SAMPLER_TRAIN is {name!r}, and there is no such sampler")
    threshold = cfg.DATALOADER.REPEAT_THRESHOLD
    factors = repeat_factors(
        annotation_columns(dataset_dicts), threshold, sqrt=cfg.DATALOADER.REPEAT_SQRT
    )
    epoch = factors.double().sum().item()
    logger.info(
        f"{name}: with threshold {threshold:g} an epoch over {size:,} images has {epoch:,.0f}; "
        f"{training}, {drawn / epoch:.3g} such epochs"
    )
    return lambda seed: RepeatFactorTrainingSampler(factors, seed=seed)


def sampler_settings(cfg: CfgNode) -> dict[str, Any]:
    """Name and settings of the sampler, as plain values: what it draws depends on them."""
    name, loader = cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER
    settings: dict[str, Any] = {"sampler": name}
    if name == "RepeatFactorTrainingSampler":
        settings |= {
            "repeat_threshold": loader.REPEAT_THRESHOLD,
            "repeat_sqrt": loader.REPEAT_SQRT,
        }
    if name == "RandomSubsetTrainingSampler":
        settings["subset_ratio"] = loader.RANDOM_SUBSET_RATIO
    return settings


def _subset_size(cfg: CfgNode, num_images: int) -> int:
    ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
    size = int(num_images * ratio)
    if not 0 < size <= num_images:
        raise ValueError(
            f"DATALOADER.RANDOM_SUBSET_RATIO is {ratio:g}, which leaves {size} of {num_images} "
            "images; it must be at most 1, and leave at least one"
        )
    return size
