"""The training data: a stream of images in which every place depends on the seed alone."""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import random
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from .annotated_images import AnnotatedImages, JoinedImages
from .dataset_mapper import NamedImageDatasetMapper, unreadable_message
from .train_sampler import build_train_sampler, sampler_settings

# A mapper that fails for so many images in a row fails for all of them.
MAX_FAILURES = 20
# Sent by a scheduler, Ctrl-C or a closed terminal to a whole process group.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)

# Place of an image: its position in the stream of all processes, and its index in the dataset.
Place = tuple[int, int]


@dataclasses.dataclass(eq=False)
class TrainLoader:
    """
    Iterating gives the images of one pass of this process, mapped, without end.

    All processes share one stream of image indices; its positions are numbered, and a process
    takes ``rank, rank + world size, ...``. An image's augmentations depend on seed and position,
    not on workers, processes or what was loaded before.

    Attributes:
        dataset: images in Detectron2's standard format.
        mapper: maps one of them.
        build_sampler: from a seed to the sampler of this process, of
            :func:`~eql_seesaw.data.train_sampler.build_train_sampler`.
        is_wide: a byte for each image, to have only wide or only other images in a pass; None for
            passes in the order of the stream.
        stream: plain values that decide the stream; of them, "seed" and "images_per_pass" are read.
        num_workers: processes that load; 0 to load in this one.
        skip_unreadable: let other images take the place of those that cannot be read, as
            :class:`StreamDataset` says.
        num_passes: passes of this process that the next ``iter()`` leaves out, without reading an
            image.
    """

    dataset: Sequence[dict[str, Any]]
    mapper: Callable[[dict[str, Any]], dict[str, Any]]
    build_sampler: Callable[[int], Sampler]
    is_wide: bytes | None
    stream: dict[str, Any]
    num_workers: int
    skip_unreadable: bool
    num_passes: int = 0

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """
        Raises (while iterating):
            ValueError: an image cannot be read. The last line has its id and file.
            RuntimeError: a worker died, often for want of memory.
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
        # So that none of the signals finds workers unprepared.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            passes = iter(loader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return _ending_workers(passes)

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
    if isinstance(images, AnnotatedImages | JoinedImages):
        dataset: Any = images  # whose workers share its text
        is_wide = images.is_wide.tobytes() if grouping else None
    else:
        dataset = DatasetFromList(images, copy=False)
        is_wide = bytes(x["width"] > x["height"] for x in images) if grouping else None
    return TrainLoader(
        dataset,
        NamedImageDatasetMapper(cfg, is_train=True) if mapper is None else mapper,
        build_sampler,
        is_wide=is_wide,
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


@dataclasses.dataclass(eq=False)
class StreamDataset(Dataset):
    """
    Images by position in the training stream. What the mapper draws from the generators of
    Python's ``random``, NumPy and torch (CPU) depends on seed and position alone.

    Attributes:
        dataset: images in Detectron2's standard format.
        mapper: maps one of them; it returns a dict.
        seed: of the stream, at least 0.
        skip_unreadable: where the mapper fails, let another image of the dataset, drawn from the
            position's own random numbers, take the place.
    """

    dataset: Sequence[dict[str, Any]]
    mapper: Callable[[dict[str, Any]], dict[str, Any]]
    seed: int
    skip_unreadable: bool

    def __getitem__(self, place: Place) -> dict[str, Any]:
        """
        Args:
            place: position in the stream, and index of the image there.

        Returns:
            The mapped image; where others were skipped in its favour, "unreadable" holds a line
            for each.

        Raises:
            ValueError: the image, or too many in a row, could not be mapped. One line with the
                last one's id and file.
        """
        position, index = place
        max_failures = MAX_FAILURES if self.skip_unreadable else 1
        replacements = np.random.default_rng(_random_words(self.seed, position, 0))
        unreadable: list[str] = []
        while True:
            dataset_dict = self.dataset[index]
            try:
                with seeded_generators(_random_words(self.seed, position, 1 + len(unreadable))):
                    mapped = self.mapper(dataset_dict)
                if mapped is None:  # as mappers for Detectron2's loader may return
                    raise ValueError("the mapper left it out")
                break
            except MemoryError:
                raise
            # Whatever a user's mapper raises; the limit finds those that always fail.
            except Exception as error:
                unreadable.append(unreadable_message(dataset_dict, error))
                if len(unreadable) == max_failures:
                    many = f"{len(unreadable)} images in a row are unreadable, the last: "
                    message = unreadable[-1]
                    raise ValueError(many + message if len(unreadable) > 1 else message) from error
            index = int(replacements.integers(len(self.dataset)))
        if unreadable:
            mapped["unreadable"] = unreadable
        return mapped


@contextlib.contextmanager
def seeded_generators(words: np.ndarray) -> Iterator[None]:
    """
    Seed Python's ``random``, NumPy and torch (CPU), and put their states back in the end.

    Args:
        words: (4,) uint32, random.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    entropy = int.from_bytes(words.tobytes(), "little")
    try:
        random.seed(entropy)
        np.random.seed(words)
        # Not torch.manual_seed, which would also seed the GPUs.
        torch.default_generator.manual_seed(entropy % 2**63)
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _random_words(seed: int, *key: int) -> np.ndarray:
    return np.random.SeedSequence(seed, spawn_key=key).generate_state(4)


def _ending_workers(passes: Iterator[list[dict]]) -> Iterator[list[dict]]:
    try:
        yield from passes
    except Exception as error:
        # Lets go of torch's iterator, whose workers end when nothing holds it any more.
        traceback.clear_frames(error.__traceback__)
        del passes
        raise


def leave_signals_to_parent(worker_id: int) -> None:
    """
    The ``worker_init_fn`` of a torch ``DataLoader`` on Linux. The worker ignores SIGINT, SIGUSR1,
    SIGHUP, and SIGTERM of others than its parent; it ends at once where its parent terminates it
    or dies.
    """
    # Not os.getppid(): a parent killed before this line has left its worker to another process.
    parent_process = multiprocessing.parent_process()
    assert parent_process is not None and parent_process.pid is not None
    for signum in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    # Blocked, SIGTERM waits for the thread below, which alone can see who sent it.
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, args=(parent_process.pid,), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        received = signal.sigtimedwait({signal.SIGTERM}, 1.0)
        if received is not None and received.si_pid == parent:
            break
    os._exit(0)
