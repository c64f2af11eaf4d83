"""Predicting on image files."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from detectron2.data.detection_utils import read_image
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from ..atomic_write import atomic_file
from ..data.pictures import reading_error
from .batch_predictor import BatchPredictor
from .results import PredictionsWriter

logger = logging.getLogger(__name__)

# Files in folders with other names are passed over.
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
JPEG_SUFFIXES = (".jpeg", ".jpg")
JPEG_QUALITY = 95


def find_images(inputs: Sequence[str]) -> list[str]:
    """
    Image files in sorted order, each once.

    Args:
        inputs: files, whatever their names, and folders, of which the images are taken but not
            those in folders within.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: there is no image.
    """
    paths = []
    for path in inputs:
        if not os.path.exists(path):
            raise FileNotFoundError(f"no such file or folder: {path}")
        if not os.path.isdir(path):
            paths.append(path)
            continue
        for entry in os.scandir(path):
            is_hidden = entry.name.startswith(".")
            if entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_file() and not is_hidden:
                paths.append(entry.path)
    if not paths:
        raise ValueError(
            f"no image in {', '.join(inputs)}: no file there ends in {', '.join(IMAGE_SUFFIXES)}"
        )
    return sorted({os.path.realpath(path): path for path in reversed(paths)}.values())


def predict_images(
    predictor: BatchPredictor,
    paths: Sequence[str],
    folder: Path,
    results: PredictionsWriter,
    batch_size: int = 1,
) -> int:
    """
    Predict on image files, numbered from 1, and write an annotated picture of each.

    Files that cannot be read are named in the log and left out.

    Args:
        predictor: model with class names.
        paths: image files.
        folder: where the pictures go, under the names of the files. Of files with the same name,
            the second becomes "name_2.jpg", and so on.
        results: gets the detections.
        batch_size: images that the model sees at a time.

    Returns:
        The number of files that could not be read.
    """
    images = list(zip(range(1, len(paths) + 1), paths, _picture_names(paths), strict=True))
    num_unreadable = 0
    with tqdm(total=len(images), unit="image", disable=None) as progress:
        for start in range(0, len(images), batch_size):
            batch = []
            for image in images[start : start + batch_size]:
                try:
                    batch.append((*image, *_read(predictor, image[1])))
                except Exception as error:  # Pillow's readers raise all sorts over broken files
                    num_unreadable += 1
                    is_other = isinstance(error, UnidentifiedImageError)
                    reason = reading_error(error) or type(error).__name__
                    reason = "not an image" if is_other else reason
                    logger.warning(f"left out {image[1]}: {reason}")
            detections = predictor.predict([model_input for *_, model_input in batch])
            for (image_id, path, name, pixels, _), instances in zip(batch, detections, strict=True):
                height, width = pixels.shape[:2]
                image_results = predictor.lvis_results(instances, image_id)
                _save(predictor.draw(pixels, image_results), folder / name)
                results.add(
                    {
                        "id": image_id,
                        "file_name": path,
                        "height": height,
                        "width": width,
                        "picture": name,
                    },
                    image_results,
                )
            progress.update(len(images[start : start + batch_size]))
    return num_unreadable


def _picture_names(paths: Sequence[str]) -> list[str]:
    """A file name for each path, all different also where the case of letters does not count."""
    names, taken = [], set()
    for path in map(Path, paths):
        suffix = path.suffix if path.suffix.lower() in JPEG_SUFFIXES else ".png"
        name, number = path.stem + suffix, 1
        while name.lower() in taken:
            number += 1
            name = f"{path.stem}_{number}{suffix}"
        taken.add(name.lower())
        names.append(name)
    return names


def _read(predictor: BatchPredictor, path: str) -> tuple[np.ndarray, dict]:
    pixels = read_image(path, format="BGR")
    return pixels, predictor.preprocess(pixels)


def _save(picture: Image.Image, path: Path) -> None:
    image_format = "JPEG" if path.suffix.lower() in JPEG_SUFFIXES else "PNG"
    with atomic_file(path, "wb") as f:
        picture.save(f, format=image_format, quality=JPEG_QUALITY)  # PNG has no quality
