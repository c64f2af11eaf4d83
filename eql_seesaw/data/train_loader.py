"""The training data: a stream of images in which every place depends on the seed alone."""

import itertools
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList
from detectron2.utils import comm
from torch.utils.data import DataLoader, Sampler

from .annotated_images import AnnotatedImages, JoinedImages
from .dataset_mapper import NamedImageDatasetMapper
from .stream_dataset import StreamDataset
from .train_sampler import build_train_sampler, sampler_settings
from .worker_signals import held_signals, leave_signals_to_parent

# Place of an image: its position in the stream of all processes, and its index in the dataset.
Place = tuple[int, int]


class TrainLoader:
    """
    Iterating gives the images of one pass of this process, mapped, without end.

    All processes share one stream of image indices; its positions are numbered, and a process
    takes ``rank, rank + world size, ...``. An image's augmentations depend on seed and position,
    not on workers, processes or what was loaded before.

    Args:
        dataset: images in Detectron2's standard format.
        mapper: maps one of them.
        build_sampler: from a seed to the sampler of this process, of
            :func:`~eql_seesaw.data.train_sampler.build_train_sampler`.
        is_wide: a byte for each image, to have only wide or only other images in a pass; None for
            passes in the order of the stream.
        stream: plain values that decide the stream; of them, "seed" and "images_per_pass" are read.
        num_workers: processes that load; 0 to load in this one.
        skip_unreadable: let other images take the place of those that cannot be read, as
            :class:`~eql_seesaw.data.stream_dataset.StreamDataset` says.

    Attributes:
        stream (dict): plain values that decide the stream.
    """

    def __init__(
        self,
        dataset: Sequence[dict[str, Any]],
        mapper: Callable[[dict[str, Any]], dict[str, Any]],
        build_sampler: Callable[[int], Sampler],
        *,
        is_wide: bytes | None,
        stream: dict[str, Any],
        num_workers: int = 0,
        skip_unreadable: bool = False,
    ):
        self.dataset = dataset
        self.mapper = mapper
        self.build_sampler = build_sampler
        self.is_wide = is_wide
        self.stream = stream
        self.num_workers = num_workers
        self.skip_unreadable = skip_unreadable
        self.num_passes = 0

    def start_at(self, num_passes: int) -> None:
        """The next ``iter()`` goes on after so many passes of this process; it reads no images."""
        self.num_passes = num_passes

    def set_seed(self, seed: int) -> None:
        """The next ``iter()`` gives the stream of this seed."""
        self.stream["seed"] = seed

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """
        Raises (while iterating):
            ValueError: an image cannot be read. One line with image id and file.
            ChildProcessError: a worker died.
        """
        seed = self.stream["seed"]
        loader = DataLoader(
            StreamDataset(self.dataset, self.mapper, seed, self.skip_unreadable),
            batch_sampler=itertools.islice(self._passes(seed), self.num_passes, None),
            num_workers=self.num_workers,
            collate_fn=list,
            worker_init_fn=leave_signals_to_parent,
            # Of its own, since workers' seeds are drawn from it.
            generator=torch.Generator(),
        )
        with held_signals():
            passes = iter(loader)
        return _with_clear_errors(passes)

    def _passes(self, seed: int) -> Iterator[list[Place]]:
        rank, world_size = comm.get_rank(), comm.get_world_size()
        places = zip(itertools.count(rank, world_size), self.build_sampler(seed))
        return group_places(places, self.stream["images_per_pass"], self.is_wide)


def build_train_loader(
    cfg: CfgNode,
    images: Sequence[dict[str, Any]],
    mapper: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> TrainLoader:
    """
    Args:
        cfg: with this project's keys. A pass of a process has SOLVER.IMS_PER_BATCH / (processes *
            SOLVER.ACCUMULATION_STEPS) images. With SEED < 0 the seed is random.
        images: training set in Detectron2's standard format, as
            :func:`~eql_seesaw.data.training_set.load_training_set` gives it.
        mapper: maps an image of it; None for :class:`NamedImageDatasetMapper`.

    Raises:
        ValueError: the batch cannot be divided, or the data do not fit the sampler.
    """
    images_per_pass = images_of_pass(cfg)
    build_sampler = build_train_sampler(cfg, images)
    grouping = cfg.DATALOADER.ASPECT_RATIO_GROUPING
    is_shared = isinstance(images, AnnotatedImages | JoinedImages)
    return TrainLoader(
        images if is_shared else DatasetFromList(images, copy=False),
        NamedImageDatasetMapper(cfg, is_train=True) if mapper is None else mapper,
        build_sampler,
        is_wide=_are_wide(images) if grouping else None,
        stream={
            "seed": cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(),
            **sampler_settings(cfg),
            "images_per_pass": images_per_pass,
            "world_size": comm.get_world_size(),
            "num_images": len(images),
            "aspect_ratio_grouping": grouping,
        },
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        skip_unreadable=cfg.DATALOADER.UNREADABLE_IMAGES == "skip",
    )


def images_of_pass(cfg: CfgNode) -> int:
    """
    The images of one pass of one process.

    Raises:
        ValueError: SOLVER.IMS_PER_BATCH cannot be divided.
    """
    batch, steps = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATION_STEPS
    world_size = comm.get_world_size()
    if batch < 1 or batch % (world_size * steps):
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {batch}; it must be a multiple of {world_size * steps}, "
            f"{world_size} process(es) times SOLVER.ACCUMULATION_STEPS {steps}"
        )
    return batch // (world_size * steps)


def group_places(
    places: Iterable[Place], size: int, is_wide: bytes | None = None
) -> Iterator[list[Place]]:
    """
    Groups of ``size`` places, in the order in which they fill; with ``is_wide``, of images that
    are all wider than high or all not, as Detectron2's ``AspectRatioGroupedDataset`` does.
    """
    groups: tuple[list[Place], list[Place]] = ([], [])
    for place in places:
        group = groups[is_wide[place[1]] if is_wide else 0]
        group.append(place)
        if len(group) == size:
            yield group[:]
            group.clear()


def _are_wide(images: Sequence[dict[str, Any]]) -> bytes:
    if isinstance(images, AnnotatedImages | JoinedImages):
        return images.is_wide.tobytes()
    return bytes(map(_is_wide, images))


def _is_wide(dataset_dict: dict[str, Any]) -> bool:
    try:
        return dataset_dict["width"] > dataset_dict["height"]
    except KeyError as error:
        raise ValueError(
            f"image {dataset_dict.get('image_id')}, {dataset_dict.get('file_name')}: no {error}, "
            "which DATALOADER.ASPECT_RATIO_GROUPING needs; set that to False"
        ) from None


def _with_clear_errors(passes: Iterator[list[dict]]) -> Iterator[list[dict]]:
    try:
        yield from passes
    except Exception as error:
        # Lets go of torch's iterator, whose workers end when nothing holds it any more.
        traceback.clear_frames(error.__traceback__)
        del passes
        lines = str(error).strip().splitlines()
        if isinstance(error, ValueError):
            # An error of a worker has the worker's traceback before it.
            raise ValueError(lines[-1].removeprefix("ValueError: ")) from error
        if isinstance(error, RuntimeError) and "DataLoader worker (pid" in lines[0]:
            raise ChildProcessError(
                "a process that loads images died, perhaps for want of memory; a lower "
                f"DATALOADER.NUM_WORKERS needs less: {' '.join(lines)}"
            ) from error
        raise
