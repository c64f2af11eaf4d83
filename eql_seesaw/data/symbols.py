"""
A generated long-tailed instance segmentation dataset in LVIS v1 format.

The objects are pictograms of the DejaVu Sans font that matplotlib installs, drawn like stickers
(the symbol in one colour on a body of another, enclosed areas filled) on textured backgrounds. The
masks are exact, nothing is downloaded, and the same arguments always give the same dataset.
"""

import json
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..atomic_write import atomic_folder
from .frequency_groups import COMMON_MAX_IMAGES, RARE_MAX_IMAGES
from .symbol_annotations import (
    AnnotatedImage,
    exhaustive_lvis_json,
    federated_lvis_json,
    lvis_categories,
    object_annotations,
)
from .symbol_glyphs import Glyph, render_glyph, symbol_names
from .symbol_images import draw_image

logger = logging.getLogger(__name__)

# Raised when the same arguments give another dataset than before.
VERSION = 1
CONTENTS = (
    "train",
    "val",
    "symbols_train.json",
    "symbols_val.json",
    "symbols_val_exhaustive.json",
)

# Shares of rare and common classes in LVIS v1 (337 and 461 of 1,203).
RARE_SHARE = 0.28
COMMON_SHARE = 0.38

MAX_IMAGE_COUNT = 600  # of the most frequent class, unless told
MIN_IMAGE_SIZE = 64
PIXELS_PER_CLASS = 600  # of an image, at least; more objects would not fit
REPEAT_PROBABILITY = 0.1  # that a class comes twice in an image that holds it
NOT_EXHAUSTIVE_PROBABILITY = 0.25  # that a validation image leaves such a second object out
JPEG_QUALITY = 90


def long_tailed_image_counts(num_classes: int, max_image_count: int = MAX_IMAGE_COUNT) -> list[int]:
    """
    Image counts of a smooth long tail, from ``max_image_count`` down to 1.

    The logarithm falls linearly within each frequency group, and the groups have LVIS v1's shares:
    28% rare, 38% common and 34% frequent classes.

    Args:
        num_classes: number of classes.
        max_image_count: about the most frequent class's images; above those of a common class.

    Returns:
        An image count for each class, the largest first.

    Raises:
        ValueError: ``max_image_count`` leaves no room for frequent classes.
    """
    if max_image_count <= COMMON_MAX_IMAGES:
        raise ValueError(
            f"max_image_count must be above {COMMON_MAX_IMAGES}, got {max_image_count}"
        )
    # Half-way between the integers, so that rounding keeps each group on its side.
    counts = (1, RARE_MAX_IMAGES + 0.5, COMMON_MAX_IMAGES + 0.5, max_image_count)
    positions = (0, RARE_SHARE, RARE_SHARE + COMMON_SHARE, 1)
    ranks = (np.arange(num_classes)[::-1] + 0.5) / num_classes
    return np.rint(np.exp(np.interp(ranks, positions, np.log(counts)))).astype(int).tolist()


def generate_symbols(
    root: str | os.PathLike,
    *,
    num_classes: int = 100,
    first_symbol: int = 0,
    image_size: int = 128,
    seed: int = 0,
    image_counts: Sequence[int] | None = None,
    max_image_count: int = MAX_IMAGE_COUNT,
    plain: bool = False,
    classes_per_image: int = 6,
    val_images_per_class: int = 20,
    overwrite: bool = False,
) -> dict:
    """
    Write the dataset into the folder ``root``, or return at once where it already is.

    The folder gets ``train/`` and ``val/`` (JPEG), three LVIS v1 annotation files and
    ``symbols.json``, which states the arguments and the summary that is returned:

    - ``symbols_train.json``: class ``i`` (category id ``i + 1``) is in exactly ``image_counts[i]``
      images, and every object is annotated.
    - ``symbols_val.json``: balanced over classes, and federated: each image is verified for the
      classes it holds and for 8 others (``neg_category_ids``). In a few images one of two objects
      of a class is left out, and the class is in ``not_exhaustive_category_ids``.
    - ``symbols_val_exhaustive.json``: the same images, every object annotated, all other classes
      verified as absent.

    ``frequency``, ``image_count`` and ``instance_count`` of the categories are those of the
    training split, in all three files.

    Args:
        num_classes: number of classes; the symbols are the first of :func:`symbol_names`, in an
            order shuffled by ``seed`` so that a symbol's kind says nothing about its frequency.
        first_symbol: symbols to pass over, so that two datasets share none.
        image_size: height and width of the images in pixels, at least 64.
        seed: the same arguments give the same dataset.
        image_counts: training images of each class, ``num_classes`` integers from 1; by default
            :func:`long_tailed_image_counts`, shuffled.
        max_image_count: of the most frequent class, where ``image_counts`` is not given.
        plain: draw dark symbols on light bodies, instead of any two colours: much easier to learn.
        classes_per_image: how many different classes an image holds on average. It decides how
            many images there are; one object in ten comes twice.
        val_images_per_class: validation images of each class.
        overwrite: replace an earlier dataset of other arguments; a folder that holds anything
            else is never touched.

    Returns:
        ``{"train": {"images", "objects"}, "val": {...}, "classes": {"r", "c", "f"}}``

    Raises:
        ValueError: an argument is out of range, or the font has too few symbols.
        FileExistsError: ``root`` holds something else, or a dataset of other arguments and
            ``overwrite`` is false.
    """
    root = Path(root).resolve()
    _check_arguments(first_symbol, image_size, seed, classes_per_image, val_images_per_class)
    if image_counts is not None:
        image_counts = _checked_image_counts(image_counts, num_classes)
    arguments = {
        "version": VERSION,
        "num_classes": int(num_classes),
        "first_symbol": int(first_symbol),
        "image_size": int(image_size),
        "seed": int(seed),
        "image_counts": image_counts,
        "max_image_count": int(max_image_count),
        "plain": bool(plain),
        "classes_per_image": int(classes_per_image),
        "val_images_per_class": int(val_images_per_class),
    }
    group_ends = [RARE_MAX_IMAGES, COMMON_MAX_IMAGES]
    if group_ends != [10, 100]:  # LVIS's, which no dataset states
        arguments["group_ends"] = group_ends
    existing = _existing_dataset(root)
    if existing is not None:
        is_complete = all((root / name).exists() for name in CONTENTS)
        # Datasets made before these arguments existed do not name them.
        later = {"first_symbol": 0, "max_image_count": MAX_IMAGE_COUNT, "plain": False}
        if is_complete and {**later, **existing["arguments"]} == arguments:
            logger.info("%s already holds this dataset, nothing to do", root)
            return existing["summary"]
        if not overwrite:
            reason = "made with other arguments" if is_complete else "with parts missing"
            raise FileExistsError(
                f"{root} holds a symbols dataset {reason} (its symbols.json states how it was "
                "made); choose another folder or ask to overwrite it"
            )

    symbols = symbol_names(first_symbol + num_classes)[first_symbol:]
    rng = np.random.default_rng(seed)
    symbols = [symbols[i] for i in rng.permutation(num_classes)]
    if image_counts is None:
        image_counts = rng.permutation(
            long_tailed_image_counts(num_classes, max_image_count)
        ).tolist()
    glyphs = [render_glyph(char) for char, _ in symbols]
    contents = {
        "train": _assign_classes(image_counts, classes_per_image, rng),
        "val": _assign_classes([val_images_per_class] * num_classes, classes_per_image, rng),
    }

    with atomic_folder(root, overwrite=existing is not None) as folder:
        train = _draw_split(
            folder / "train", contents["train"], glyphs, image_size, (seed, 0), plain
        )
        val = _draw_split(folder / "val", contents["val"], glyphs, image_size, (seed, 1), plain)
        categories = lvis_categories(symbols, train)
        files = {
            "symbols_train.json": federated_lvis_json(train, categories, 0.0, rng),
            "symbols_val.json": federated_lvis_json(
                val, categories, NOT_EXHAUSTIVE_PROBABILITY, rng
            ),
            "symbols_val_exhaustive.json": exhaustive_lvis_json(val, categories),
        }
        summary = {
            "train": {"images": len(train), "objects": sum(len(a) for _, a in train)},
            "val": {"images": len(val), "objects": sum(len(a) for _, a in val)},
            "classes": {g: sum(c["frequency"] == g for c in categories) for g in "rcf"},
        }
        files["symbols.json"] = {"arguments": arguments, "summary": summary}
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return summary


def _check_arguments(
    first_symbol: int,
    image_size: int,
    seed: int,
    classes_per_image: int,
    val_images_per_class: int,
) -> None:
    if first_symbol < 0:
        raise ValueError(f"first_symbol must not be negative, got {first_symbol}")
    if image_size < MIN_IMAGE_SIZE:
        raise ValueError(f"image_size must be at least {MIN_IMAGE_SIZE}, got {image_size}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if val_images_per_class < 1:
        raise ValueError(f"val_images_per_class must be at least 1, got {val_images_per_class}")
    most = image_size**2 // PIXELS_PER_CLASS
    if not 1 <= classes_per_image <= most:
        raise ValueError(
            f"classes_per_image must be from 1 to {most} in images of {image_size} pixels, "
            f"got {classes_per_image}"
        )


def _checked_image_counts(image_counts: Sequence[int], num_classes: int) -> list[int]:
    if len(image_counts) != num_classes:
        raise ValueError(
            f"image_counts has {len(image_counts)} entries, but num_classes is {num_classes}"
        )
    for index, count in enumerate(image_counts):
        if count < 1 or count != int(count):
            raise ValueError(f"image_counts[{index}] must be an integer from 1, got {count}")
    return [int(count) for count in image_counts]


def _existing_dataset(root: Path) -> dict | None:
    """Content of symbols.json in ``root``; None where there is nothing yet."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    try:
        existing = json.loads((root / "symbols.json").read_text(encoding="utf-8"))
        if {"arguments", "summary"} <= existing.keys():
            return existing
    except (OSError, ValueError, AttributeError):
        pass
    raise FileExistsError(
        f"{root} exists and is not a symbols dataset (it has no symbols.json of one); choose "
        "another folder, or remove it yourself"
    )


def _assign_classes(
    image_counts: Sequence[int], classes_per_image: int, rng: np.random.Generator
) -> list[list[int]]:
    """The classes of each image, such that class ``i`` is in exactly ``image_counts[i]`` images."""
    num_images = max(math.ceil(sum(image_counts) / classes_per_image), max(image_counts))
    contents: list[list[int]] = [[] for _ in range(num_images)]
    loads = np.zeros(num_images)
    spread = min(3.0, classes_per_image / 2)
    for index in np.argsort(image_counts, kind="stable")[::-1]:
        # The emptiest images first, with some disorder so that they differ in how much they hold.
        order = np.argsort(loads + rng.uniform(0, spread, num_images))
        chosen = order[: image_counts[index]]
        loads[chosen] += 1
        for image in chosen:
            contents[image].append(int(index))
    return contents


def _draw_split(
    folder: Path,
    contents: list[list[int]],
    glyphs: list[Glyph],
    image_size: int,
    seed: tuple[int, int],
    plain: bool,
) -> list[AnnotatedImage]:
    """Draw and save the images, which hold the classes in ``contents``."""
    folder.mkdir()
    split = []
    for index, classes in enumerate(tqdm(contents, desc=folder.name, unit="image", disable=None)):
        # A generator per image: its picture depends on nothing but its own classes.
        rng = np.random.default_rng((*seed, index))
        repeats = [c for c in classes if rng.random() < REPEAT_PROBABILITY]
        classes = rng.permutation(classes + repeats).tolist()
        pixels, owner = draw_image([glyphs[c] for c in classes], image_size, rng, plain)
        file_name = f"{index + 1:06d}.jpg"
        Image.fromarray(pixels).save(folder / file_name, quality=JPEG_QUALITY)
        image = {"id": index + 1, "file_name": file_name, "width": image_size, "height": image_size}
        split.append((image, object_annotations(classes, owner, image_id=index + 1)))
    return split
