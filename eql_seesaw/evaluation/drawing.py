"""Drawing objects, annotated or predicted, onto an image."""

import functools
import logging
import math
import os
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BoxMode
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from ..data.annotation_entries import compressed_rle

logger = logging.getLogger(__name__)

# Okabe and Ito, "Color Universal Design": told apart also by colour-blind readers.
PALETTE = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
# Of 255.
MASK_OPACITY = 100
DEJAVU = os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
# Lines and letters, in pixels, on an image of this longest side; they grow with its square root.
LONGEST_SIDE = 384
LINE_WIDTH = 2
FONT_SIZE = 14
MIN_FONT_SIZE = 9


def draw_objects(
    pixels: np.ndarray,
    objects: Sequence[dict[str, Any]],
    thing_classes: Sequence[str],
    longest_side: int | None = None,
) -> Image.Image:
    """
    Draw masks, then boxes, then class names, so that no name is hidden.

    Args:
        pixels: (H, W, 3) uint8, RGB.
        objects: in drawing order, each with "category_id" (contiguous class), "bbox" (x, y, width,
            height), "segmentation" (polygons or RLE), or both, and optionally "score".
        thing_classes: the class names.
        longest_side: scale the image, up or down, to this many pixels. None leaves it as it is.

    Returns:
        An RGB image. Line width and letters follow its size.
    """
    height, width = pixels.shape[:2]
    scale = longest_side / max(height, width) if longest_side else 1
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(pixels)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    for obj in objects:
        if obj.get("segmentation"):
            mask = mask_util.decode(compressed_rle(obj["segmentation"], height, width))
            _paste_mask(image, Image.fromarray(mask).resize(size), _color(obj["category_id"]))
    growth = math.sqrt(max(size) / LONGEST_SIDE)
    line_width = max(1, round(LINE_WIDTH * growth))
    font = label_font(max(MIN_FONT_SIZE, round(FONT_SIZE * growth)), tuple(thing_classes))
    draw = ImageDraw.Draw(image)
    boxes = [[scale * x for x in _xyxy(obj, height, width)] for obj in objects]
    for obj, box in zip(objects, boxes, strict=True):
        draw.rectangle(box, outline=_color(obj["category_id"]), width=line_width)
    for obj, box in zip(objects, boxes, strict=True):
        _draw_name(draw, size, box, obj, thing_classes[obj["category_id"]], font)
    return image


def label_font(size: int, names: tuple[str, ...] = ()) -> ImageFont.FreeTypeFont:
    """A font for captions and class names that has their letters, ``size`` pixels high."""
    return ImageFont.truetype(_font_file(names), size)


@functools.cache
def _font_file(names: tuple[str, ...]) -> str:
    """
    The font of this machine that has the most letters of the names; DejaVu, which matplotlib brings
    (Pillow's own has Latin letters only), where no other has more.
    """
    letters = {ord(letter) for name in names for letter in name if not letter.isspace()}
    best, lacking = DEJAVU, letters - _letters_of(DEJAVU)
    if lacking:
        paths = sorted({entry.fname for entry in font_manager.fontManager.ttflist})
        best = min([DEJAVU, *paths], key=lambda path: len(letters - _letters_of(path)))
        lacking = letters - _letters_of(best)
    if lacking:
        first = next(name for name in names if not lacking.isdisjoint(map(ord, name)))
        logger.warning(
            f"no font of this machine has all letters of the class names; some are drawn as boxes, "
            f"as in {first!r}. Noto has most scripts (Debian: fonts-noto-cjk)"
        )
    return best


@functools.cache
def _letters_of(font_file: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(font_file).get_charmap())
    except (OSError, RuntimeError):  # no longer there, or broken
        return frozenset()


def _paste_mask(image, mask, color):
    """Only within the mask's bounding box: most objects are small."""
    region = mask.getbbox()
    if region is not None:
        image.paste(color, region, mask.crop(region).point(lambda value: MASK_OPACITY * value))


def _draw_name(draw, size, box, obj, name, font):
    """Above the box where there is room, so that small objects stay visible."""
    if "score" in obj:
        name = f"{name} {obj['score']:.0%}"
    _, _, right, bottom = draw.textbbox((2, 0), name, font)
    width, height = right + 2, bottom + 3
    x = max(0, min(box[0], size[0] - width))
    y = box[1] - height if box[1] >= height else max(0, min(box[1], size[1] - height))
    color = _color(obj["category_id"])
    draw.rectangle((x, y, x + width, y + height), fill=color)
    is_light = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 100
    draw.text((x + 2, y), name, "black" if is_light else "white", font)


def _xyxy(obj, height, width):
    box = obj.get("bbox")
    if box is None:  # results of other tools may have masks alone
        box = mask_util.toBbox(compressed_rle(obj["segmentation"], height, width))
    x0, y0, x1, y1 = BoxMode.convert(list(box), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    return x0, y0, max(x0, x1), max(y0, y1)


def _color(k):
    return PALETTE[k % len(PALETTE)]
