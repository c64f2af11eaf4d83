"""A training set of the size and shape of LVIS v1's, as files: annotations and a few images."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
from detectron2.data.datasets.lvis_v1_category_image_count import LVIS_CATEGORY_IMAGE_COUNT
from PIL import Image

from eql_seesaw.atomic_write import atomic_folder

from .lvis_like_validation_set import (
    IMAGE_SIZES,
    NUM_TRAIN_ANNOTATIONS,
    NUM_TRAIN_IMAGES,
    random_boxes,
)

# All that the images and annotations differ in; each comes many times.
NUM_IMAGE_FILES = 300
NUM_SHAPES = 20_000
# With these, the whole file has 1.05 GB; that of LVIS v1 has about 1.1 GB.
MEDIAN_CORNERS, SPREAD_OF_CORNERS = 30, 0.9
NEGATIVE_CLASSES_PER_IMAGE = 8
SHARE_NOT_EXHAUSTIVE = 0.1


class TrainingSet(NamedTuple):
    """Annotation file and image folder, as ``register_lvis_instances`` takes them."""

    json_file: str
    image_root: str


def lvis_like_training(folder: Path, num_images: int = NUM_TRAIN_IMAGES) -> TrainingSet:
    """
    Write a training set in LVIS format with LVIS v1's categories, unless it is there. Every image
    has the name of one of a few image files, and every annotation box and polygon of one of a few
    shapes.

    Args:
        folder: for training sets; each gets a folder in it.
        num_images: in the annotation file; annotations are as many for an image as in LVIS v1.
    """
    folder = Path(folder) / f"lvis_{num_images}_images"
    training_set = TrainingSet(str(folder / "annotations.json"), f"{folder}/")
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        with atomic_folder(folder) as partial:
            _write_images(partial / "train2017", rng)
            _write_annotations(partial / "annotations.json", num_images, rng)
    return training_set


def draw_annotations(
    image_counts: np.ndarray, num_images: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """
    Images and classes of annotations.

    Args:
        image_counts: (K,) int64, images of each class.
        num_images: in all.
        rng: what is random comes from it.

    Returns:
        (A,) int64 images, ascending, and (A,) int64 classes of the annotations. Each class is in
        as many images as asked for, and the instances are as many for an image as in LVIS v1.
    """
    images = np.concatenate([rng.choice(num_images, n, replace=False) for n in image_counts])
    classes = np.repeat(np.arange(len(image_counts)), image_counts)
    num_annotations = round(NUM_TRAIN_ANNOTATIONS / NUM_TRAIN_IMAGES * num_images)
    # A few images have many instances of a class, and most have one.
    share = rng.exponential(size=len(images))
    others = max(0, num_annotations - len(images))
    instances = 1 + rng.multinomial(others, share / share.sum())
    images, classes = np.repeat(images, instances), np.repeat(classes, instances)
    order = np.argsort(images, kind="stable")
    return images[order], classes[order]


def long_tail(num_images: int, num_classes: int | None = None) -> np.ndarray:
    """(K,) int64: images of each class, as in LVIS v1's training set, scaled to ``num_images``."""
    by_id = sorted(LVIS_CATEGORY_IMAGE_COUNT, key=lambda category: category["id"])
    image_counts = np.array([category["image_count"] for category in by_id])
    total = image_counts.sum() * num_images / NUM_TRAIN_IMAGES
    if num_classes is not None:
        places = np.linspace(0, len(image_counts) - 1, num_classes)
        image_counts = np.interp(places, np.arange(len(image_counts)), np.sort(image_counts))
    image_counts = image_counts * (total / image_counts.sum())
    return np.clip(image_counts.round().astype(np.int64), 1, num_images)


def _write_images(folder: Path, rng: np.random.Generator) -> None:
    """Files of smooth noise, in each of the sizes in turn."""
    folder.mkdir()
    for index in range(NUM_IMAGE_FILES):
        height, width = IMAGE_SIZES[index % len(IMAGE_SIZES)]
        pixels = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{index:012d}.jpg", quality=95)


def _write_annotations(path: Path, num_images: int, rng: np.random.Generator) -> None:
    image_counts = long_tail(num_images)
    images, classes = draw_annotations(image_counts, num_images, rng)
    with open(path, "w", encoding="utf-8") as f:
        f.write('{"info": {"version": "generated"}, "categories": ')
        json.dump(sorted(LVIS_CATEGORIES, key=lambda category: category["id"]), f)
        f.write(', "images": [')
        f.write(", ".join(_images(images, classes, num_images, len(image_counts), rng)))
        f.write('], "annotations": [')
        shapes = _shapes(rng)
        drawn = rng.integers(len(shapes), size=len(images))
        separator = ""
        for index, (image, k, shape) in enumerate(
            zip((images + 1).tolist(), (classes + 1).tolist(), drawn.tolist(), strict=True)
        ):
            start = f'{{"id": {index + 1}, "image_id": {image}, "category_id": {k}, '
            f.write(separator + start + shapes[shape])
            separator = ", "
        f.write("]}")


def _images(
    images: np.ndarray,
    classes: np.ndarray,
    num_images: int,
    num_classes: int,
    rng: np.random.Generator,
) -> Iterator[str]:
    """The entries of the "images", as JSON."""
    ends = np.searchsorted(images, np.arange(num_images), side="right")
    positive_classes = np.split(classes, ends[:-1])
    negatives = rng.integers(num_classes, size=(num_images, NEGATIVE_CLASSES_PER_IMAGE))
    for index, positive in enumerate(positive_classes):
        positive = np.unique(positive)
        height, width = IMAGE_SIZES[index % NUM_IMAGE_FILES % len(IMAGE_SIZES)]
        not_exhaustive = positive[rng.random(len(positive)) < SHARE_NOT_EXHAUSTIVE]
        name = f"{index % NUM_IMAGE_FILES:012d}.jpg"
        yield json.dumps(
            {
                "id": index + 1,
                "coco_url": f"http://images.cocodataset.org/train2017/{name}",
                "flickr_url": f"http://farm.staticflickr.com/{name}",
                "date_captured": "2013-11-14 17:02:52",
                "license": 1,
                "height": height,
                "width": width,
                "neg_category_ids": (np.setdiff1d(negatives[index], positive) + 1).tolist(),
                "not_exhaustive_category_ids": (not_exhaustive + 1).tolist(),
            }
        )


def _shapes(rng: np.random.Generator) -> list[str]:
    """Box, area and polygon of objects that fit into each of the images, as the end of JSON."""
    height, width = np.min(IMAGE_SIZES, axis=0)
    boxes = random_boxes(rng, NUM_SHAPES, height, width)
    corners = rng.lognormal(np.log(MEDIAN_CORNERS), SPREAD_OF_CORNERS, NUM_SHAPES)
    shapes = []
    for (x, y, w, h), number in zip(boxes, np.maximum(3, corners).astype(int), strict=True):
        angles = np.linspace(0, 2 * np.pi, number, endpoint=False)
        radius = rng.uniform(0.35, 0.5, number)
        points = np.stack([x + w / 2 + np.cos(angles) * radius * w] * 2, axis=1)
        points[:, 1] = y + h / 2 + np.sin(angles) * radius * h
        shape = {
            "bbox": [x, y, w, h],
            "area": round(w * h / 2, 2),
            "segmentation": [points.ravel().round(2).tolist()],
        }
        shapes.append(json.dumps(shape)[1:])
    return shapes
