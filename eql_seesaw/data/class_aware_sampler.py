"""Sampling of training images by class."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from torch.utils.data import Sampler

from .annotation_columns import annotation_columns


class ClassAwareTrainingSampler(Sampler):
    """
    Class-aware sampling of https://arxiv.org/abs/1512.05830: every class comes equally
    often, and within a class every image that holds it. Both lists are gone through in random
    order and shuffled anew at their end.

    The stream of image indices is infinite. As with Detectron2's samplers, all processes have the
    same stream, and each takes the indices ``rank, rank + world size, ...`` of it.

    Args:
        class_images: the indices of each class's images, of :meth:`images_of_classes`.
        seed: the same in all processes; None for a random one that they agree on.
    """

    def __init__(self, class_images: Sequence[torch.Tensor], seed: int | None = None):
        self.class_images = class_images
        self.seed = comm.shared_random_seed() if seed is None else seed
        self.rank, self.world_size = comm.get_rank(), comm.get_world_size()

    @staticmethod
    def images_of_classes(dataset_dicts: Sequence[dict[str, Any]]) -> list[torch.Tensor]:
        """
        Args:
            dataset_dicts: dataset in Detectron2's standard format, with contiguous class ids.

        Returns:
            For each class that has any, the indices of its images, int64. Crowd annotations
            (``iscrowd`` = 1), which training leaves out, do not count.

        Raises:
            ValueError: there are no annotations.
        """
        columns = annotation_columns(dataset_dicts).without_crowds()
        images, classes = columns.classes_of_images()
        if not len(images):
            raise ValueError("ClassAwareTrainingSampler: there are no annotations to sample by")
        class_starts = np.flatnonzero(np.diff(classes)) + 1
        return [torch.from_numpy(of_class) for of_class in np.split(images, class_starts)]

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
