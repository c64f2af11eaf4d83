"""A training set of the size and shape of LVIS v1's, as files: annotations and a few images."""

from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from PIL import Image

from eql_seesaw.atomic_write import atomic_folder

from .lvis_like_validation_set import IMAGE_SIZES, NUM_IMAGE_FILES, lvis_like_ground_truth

# With these, the whole file has as many bytes as that of LVIS v1, about 1.1 GB.
CORNERS = 45


class TrainingSet(NamedTuple):
    """Annotation file and image folder, as ``register_lvis_instances`` takes them."""

    json_file: str
    image_root: str


def lvis_like_training(folder: Path, num_images: int) -> TrainingSet:
    """
    Write a training set in LVIS format with LVIS v1's categories, unless it is there. Every image
    has the name of one of a few image files.

    Args:
        folder: for training sets; each gets a folder in it.
    """
    folder = Path(folder) / f"lvis_like_{num_images}_images"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder) as partial:
            _write_images(partial / "train2017")
            ground_truth = lvis_like_ground_truth(num_images, corners=CORNERS)
            (partial / "annotations.json").write_bytes(msgspec.json.encode(ground_truth))
    return TrainingSet(str(folder / "annotations.json"), f"{folder}/")


def _write_images(folder: Path) -> None:
    """Files of smooth noise, in each of the sizes in turn."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for index in range(NUM_IMAGE_FILES):
        height, width = IMAGE_SIZES[index % len(IMAGE_SIZES)]
        pixels = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{index:012d}.jpg", quality=95)
