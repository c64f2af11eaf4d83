"""Samplers of the training set: the choice of DATALOADER.SAMPLER_TRAIN, and what each draws."""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm
from torch.utils.data import Sampler

from .class_statistics import AnnotationColumns, annotation_columns

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

    def log(what: str, epoch: float, unit: str) -> None:
        logger.info(f"{name}: {what}training draws {drawn:,}, {drawn / epoch:.3g} {unit}")

    if name == "TrainingSampler":
        log("", size, f"times the {size:,} images")
        return lambda seed: TrainingSampler(size, seed=seed)
    if name == "RandomSubsetTrainingSampler":
        ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
        subset = int(ratio * size)
        if not 0 < subset <= size:
            raise ValueError(
                f"DATALOADER.RANDOM_SUBSET_RATIO is {ratio:g}: {subset} of {size} images are left"
            )
        log("", subset, f"times {subset:,} of the {size:,} images")
        return lambda seed: RandomSubsetTrainingSampler(
            size, ratio, seed_shuffle=seed, seed_subset=seed
        )
    columns = annotation_columns(dataset_dicts)
    if name == "ClassAwareTrainingSampler":
        class_images = images_of_classes(columns)
        what = f"{len(class_images):,} classes with images are drawn equally often; "
        log(what, size, f"times the {size:,} images")
        return lambda seed: ClassAwareTrainingSampler(class_images, seed)
    threshold = cfg.DATALOADER.REPEAT_THRESHOLD
    factors = repeat_factors(
        columns,
        threshold,
        sqrt=cfg.DATALOADER.REPEAT_SQRT,
        instance_aware=cfg.DATALOADER.REPEAT_FREQUENCY == "instance_aware",
        round_up=cfg.DATALOADER.REPEAT_ROUNDING == "ceil",
    )
    epoch = factors.double().sum().item()
    what = f"with threshold {threshold:g} an epoch over {size:,} images has {epoch:,.0f}; "
    log(what, epoch, "such epochs")
    return lambda seed: RepeatFactorTrainingSampler(factors, seed=seed)


def sampler_settings(cfg: CfgNode) -> dict[str, Any]:
    """Name and settings of the sampler, as plain values: what it draws depends on them."""
    name, loader = cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER
    settings: dict[str, Any] = {"sampler": name}
    if name == "RepeatFactorTrainingSampler":
        settings |= {
            "repeat_threshold": loader.REPEAT_THRESHOLD,
            "repeat_sqrt": loader.REPEAT_SQRT,
            "repeat_frequency": loader.REPEAT_FREQUENCY,
            "repeat_rounding": loader.REPEAT_ROUNDING,
        }
    if name == "RandomSubsetTrainingSampler":
        settings["subset_ratio"] = loader.RANDOM_SUBSET_RATIO
    return settings


def repeat_factors(
    columns: AnnotationColumns,
    threshold: float,
    sqrt: bool = True,
    *,
    instance_aware: bool = False,
    round_up: bool = False,
) -> torch.Tensor:
    """
    The factors of https://arxiv.org/abs/1908.03195, appendix B.2, for Detectron2's
    ``RepeatFactorTrainingSampler``, whose own function gives the same numbers.

    Args:
        columns: of the training set; crowd annotations count, as in Detectron2.
        threshold: frequency, images with the class / all images, below which a class is repeated.
        sqrt: a class of frequency f is repeated sqrt(threshold / f) times, else threshold / f.
        instance_aware: f is the geometric mean of that frequency and of the class's share of all
            instances, https://arxiv.org/abs/2305.08069.
        round_up: to whole numbers, as mmdetection does; the sampler draws their fractions else.

    Returns:
        (N,) float32, at least 1: for each image the largest factor of its classes.
    """
    images, classes = columns.classes_of_images()
    image_counts = np.bincount(classes)
    frequencies = np.maximum(image_counts, 1) / max(columns.num_images, 1)
    if instance_aware:
        instance_counts = np.maximum(np.bincount(columns.classes), 1)
        frequencies = np.sqrt(frequencies * instance_counts / max(len(columns.classes), 1))
    ratios = threshold / frequencies
    class_factors = np.maximum(1.0, np.sqrt(ratios) if sqrt else ratios)
    factors = np.ones(columns.num_images)
    np.maximum.at(factors, images, class_factors[classes])
    if round_up:
        factors = np.ceil(factors)
    return torch.from_numpy(factors).float()


def images_of_classes(columns: AnnotationColumns) -> list[torch.Tensor]:
    """
    Indices of the images of each class that has any, int64. Crowds, which training leaves out, do
    not count.

    Raises:
        ValueError: there are no annotations.
    """
    images, classes = columns.without_crowds().classes_of_images()
    if not len(images):
        raise ValueError("ClassAwareTrainingSampler: there are no annotations to sample by")
    class_starts = np.flatnonzero(np.diff(classes)) + 1
    return [torch.from_numpy(of_class) for of_class in np.split(images, class_starts)]


class ClassAwareTrainingSampler(Sampler):
    """
    Class-aware sampling of https://arxiv.org/abs/1512.05830: every class comes equally
    often, and within a class every image that holds it. Both lists are gone through in random
    order and shuffled anew at their end.

    The stream of image indices is infinite. As with Detectron2's samplers, all processes have the
    same stream, and each takes the indices ``rank, rank + world size, ...`` of it.

    Args:
        class_images: the indices of each class's images, of :func:`images_of_classes`.
        seed: the same in all processes.
    """

    def __init__(self, class_images: Sequence[torch.Tensor], seed: int):
        self.class_images = class_images
        self.seed = seed
        self.rank, self.world_size = comm.get_rank(), comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._stream(), self.rank, None, self.world_size)

    def _stream(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        images = [_shuffled_forever(indices, generator) for indices in self.class_images]
        for index in _shuffled_forever(torch.arange(len(images)), generator):
            yield next(images[index])


def _shuffled_forever(values: torch.Tensor, generator: torch.Generator) -> Iterator[int]:
    while True:
        yield from values[torch.randperm(len(values), generator=generator)].tolist()
