"""Pictures as Detectron2 reads them, and where that is not what they look like."""

import re
from collections.abc import Mapping
from typing import Any

from detectron2.utils.file_io import PathManager
from PIL import Image

EXIF_ORIENTATION = 0x0112
# Orientations that swap width and height; Detectron2 applies them when it reads an image.
EXIF_SWAPPED = (5, 6, 7, 8)
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
# Kinds of oddities.
DEEP = "pictures of more than 8 bits that become white or black"
TURNED = "pictures turned by EXIF"


def allow_pixels(max_pixels: int) -> None:
    """Let Pillow, in this process and those forked from it, read pictures of as many pixels."""
    # Pillow warns from here on, and refuses from twice as many.
    Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2


def reading_error(error: Exception) -> str:
    """Line on why a picture cannot be read."""
    found = re.search(r"Image size \((\d+) pixels\) exceeds limit of (\d+)", str(error))
    if isinstance(error, Image.DecompressionBombError) and found:
        return f"{found[1]} pixels, more than INPUT.MAX_IMAGE_PIXELS, {found[2]}"
    return " ".join(str(error).split())


def read_size(picture: Image.Image) -> tuple[int, int]:
    """Width and height after EXIF has turned the picture."""
    width, height = picture.size
    is_swapped = picture.getexif().get(EXIF_ORIENTATION) in EXIF_SWAPPED
    return (height, width) if is_swapped else (width, height)


def oddity(picture: Image.Image, width: int, height: int) -> tuple[str, str]:
    """
    Kind of a picture that a model sees differently than people do, and a line about it; ("", "")
    for others.

    Args:
        picture: its file.
        width, height: pixels, of the annotation file.
    """
    if picture.mode in DEEP_MODES:
        counts = picture.convert("RGB").convert("L").histogram()
        if counts[0] + counts[255] > 0.9 * sum(counts):
            return DEEP, f"mode {picture.mode}; save it with 8 bits"
    orientation = picture.getexif().get(EXIF_ORIENTATION, 1)
    if orientation in EXIF_SWAPPED and picture.size == (width, height) and width != height:
        return TURNED, f"orientation {orientation}, but annotated as it is stored"
    # The size alone does not tell a turned picture from a stored one.
    if orientation not in (0, 1) and (orientation not in EXIF_SWAPPED or width == height):
        return TURNED, f"orientation {orientation}; the annotations must be those of it as turned"
    return "", ""


def oddity_of_file(image: Mapping[str, Any]) -> tuple[str, str]:
    """
    The same of an image in Detectron2's standard format; ("", "") also where its file cannot be
    read, which is said when it is drawn.
    """
    try:
        with PathManager.open(image["file_name"], "rb") as f, Image.open(f) as picture:
            return oddity(picture, image["width"], image["height"])
    except Exception:  # Pillow's decoders raise many kinds
        return "", ""
