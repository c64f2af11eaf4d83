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
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image
from tqdm import tqdm

from ..atomic_write import atomic_folder
from .frequency_groups import COMMON_MAX_IMAGES, RARE_MAX_IMAGES, frequency_groups
from .symbol_drawing import Glyph, draw_image, render_glyph, symbol_names

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
REPEAT_PROBABILITY = 0.1  # that a class comes twice in an image that holds it
NOT_EXHAUSTIVE_PROBABILITY = 0.25  # that a validation image leaves such a second object out
JPEG_QUALITY = 90
NUM_NEGATIVES = 8  # classes verified as absent, per federated image (LVIS has about 9)

# The LVIS image, and its annotations without ids.
AnnotatedImage = tuple[dict, list[dict]]


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
        ValueError: the font has too few symbols, or they do not fit into the images.
        FileExistsError: ``root`` holds something else, or a dataset of other arguments and
            ``overwrite`` is false.
    """
    root = Path(root).resolve()
    if image_counts is not None and len(image_counts) != num_classes:
        raise ValueError(f"{len(image_counts)} image_counts, but num_classes is {num_classes}")
    arguments = {
        "version": VERSION,
        "num_classes": num_classes,
        "first_symbol": first_symbol,
        "image_size": image_size,
        "seed": seed,
        "image_counts": None if image_counts is None else list(image_counts),
        "max_image_count": max_image_count,
        "plain": plain,
        "classes_per_image": classes_per_image,
        "val_images_per_class": val_images_per_class,
    }
    existing = _existing_dataset(root)
    if existing is not None:
        is_complete = all((root / name).exists() for name in CONTENTS)
        if is_complete and existing["arguments"] == arguments:
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
        categories = _lvis_categories(symbols, train)
        files = {
            "symbols_train.json": _federated_lvis_json(train, categories, 0.0, rng),
            "symbols_val.json": _federated_lvis_json(
                val, categories, NOT_EXHAUSTIVE_PROBABILITY, rng
            ),
            "symbols_val_exhaustive.json": _exhaustive_lvis_json(val, categories),
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
        split.append((image, _object_annotations(classes, owner, image_id=index + 1)))
    return split


def _object_annotations(classes: list[int], owner: np.ndarray, image_id: int) -> list[dict]:
    """An LVIS annotation of each object, by the index of the object that each pixel shows."""
    masks = owner[:, :, None] == np.arange(len(classes))
    rles = mask_util.encode(np.asfortranarray(masks, dtype=np.uint8))
    return [
        {
            "image_id": image_id,
            "category_id": class_index + 1,
            "bbox": mask_util.toBbox(rle).tolist(),
            "area": int(mask_util.area(rle)),
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
            "iscrowd": 0,
        }
        for class_index, rle in zip(classes, rles, strict=True)
    ]


def _lvis_categories(symbols: list[tuple[str, str]], train: list[AnnotatedImage]) -> list[dict]:
    """The "categories" of an LVIS file, with ids from 1 and the counts of the training split."""
    in_images = [[annotation["category_id"] for annotation in objects] for _, objects in train]
    image_counts = Counter(k for ids in in_images for k in set(ids))
    instance_counts = Counter(k for ids in in_images for k in ids)
    groups = frequency_groups([image_counts[k + 1] for k in range(len(symbols))])
    return [
        {
            "id": index + 1,
            "name": name,
            "synonyms": [name],
            "synset": f"u+{ord(char):04x}",
            "def": f"the symbol {char}",
            "frequency": groups[index],
            "image_count": image_counts[index + 1],
            "instance_count": instance_counts[index + 1],
        }
        for index, (char, name) in enumerate(symbols)
    ]


def _federated_lvis_json(
    split: list[AnnotatedImage],
    categories: list[dict],
    not_exhaustive_probability: float,
    rng: np.random.Generator,
) -> dict:
    """
    LVIS annotations of a split, each image verified for a few classes. With the probability, an
    object whose class the image already has is left out, and its class is not exhaustive.
    """
    images = []
    annotations: list[dict] = []
    for image, objects in split:
        kept: dict[int, list[dict]] = {}
        not_exhaustive = set()
        for annotation in objects:
            category_id = annotation["category_id"]
            if category_id in kept and rng.random() < not_exhaustive_probability:
                not_exhaustive.add(category_id)
            else:
                kept.setdefault(category_id, []).append(annotation)
        absent = [c["id"] for c in categories if c["id"] not in kept]
        negatives = rng.choice(absent, min(NUM_NEGATIVES, len(absent)), replace=False)
        images.append(
            {
                **image,
                "neg_category_ids": sorted(negatives.tolist()),
                "not_exhaustive_category_ids": sorted(not_exhaustive),
            }
        )
        annotations.extend(annotation for group in kept.values() for annotation in group)
    return _lvis_json(images, annotations, categories)


def _exhaustive_lvis_json(split: list[AnnotatedImage], categories: list[dict]) -> dict:
    """LVIS annotations of a split, each image verified for every class."""
    images = []
    for image, objects in split:
        present = {annotation["category_id"] for annotation in objects}
        absent = [c["id"] for c in categories if c["id"] not in present]
        images.append({**image, "neg_category_ids": absent, "not_exhaustive_category_ids": []})
    annotations = [annotation for _, objects in split for annotation in objects]
    return _lvis_json(images, annotations, categories)


def _lvis_json(images: list[dict], annotations: list[dict], categories: list[dict]) -> dict:
    return {
        "info": {"description": "symbols, a generated dataset in LVIS v1 format"},
        "licenses": [],
        "images": images,
        "annotations": [{"id": i, **a} for i, a in enumerate(annotations, start=1)],
        "categories": categories,
    }
