"""The images of a training stream, each mapped as its place in the stream says."""

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from .annotated_images import AnnotatedImages, DecodedImage, JoinedImages
from .dataset_mapper import unreadable_message

# A mapper that fails for so many images in a row fails for all of them.
MAX_FAILURES = 20


class StreamDataset(Dataset):
    """
    Images by position in the training stream. What the mapper draws from the generators of
    Python's ``random``, NumPy and torch (CPU) depends on seed and position alone.

    Args:
        dataset: images in Detectron2's standard format.
        mapper: maps one of them; it returns a dict.
        seed: of the stream, at least 0.
        skip_unreadable: where the mapper fails, let another image of the dataset, drawn from the
            position's own random numbers, take the place.
    """

    def __init__(
        self,
        dataset: Sequence[dict[str, Any]],
        mapper: Callable[[dict[str, Any]], dict[str, Any]],
        seed: int,
        skip_unreadable: bool = False,
    ):
        self.dataset = dataset
        self.mapper = mapper
        self.seed = seed
        self._is_decoded_anew = isinstance(dataset, AnnotatedImages | JoinedImages)
        self.max_failures = MAX_FAILURES if skip_unreadable else 1

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
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
        replacements = np.random.default_rng(_random_words(self.seed, position, 0))
        unreadable: list[str] = []
        while True:
            dataset_dict = self.dataset[index]
            if self._is_decoded_anew:
                dataset_dict = DecodedImage(dataset_dict)
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
                if len(unreadable) == self.max_failures:
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
