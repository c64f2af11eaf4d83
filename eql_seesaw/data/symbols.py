"""A generated long-tailed instance segmentation dataset in LVIS v1 format.

The objects are pictograms of the DejaVu Sans font that matplotlib installs, drawn like stickers
(the symbol in one colour on a body of another, enclosed areas filled) on textured backgrounds. The
masks are exact, nothing is downloaded, and the same arguments always give the same dataset.
"""

import json
import logging
import math
import os
import shutil
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
import pycocotools.mask as mask_util
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps
from tqdm import tqdm

__all__ = ["generate_symbols", "long_tailed_image_counts", "symbol_names"]

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

# The first symbols, picked by eye: things that one can name and tell apart at 20 pixels.
PICTOGRAMS = (
    "☂☃☁☀★☎☕☘☛☾☺♚♛♜♝♞♟♔♖♘♠♥♦♣♨♪♬♭♯♻♿⚀⚁⚂⚃⚄⚅⚓⚖⚗⚘⚙⚛⚠⚡⛃✂✆✇✈✉✍✎✒✔✘✦✪✯✳✴✺✿❀❂❄❆❖❢❦❶➔➤➲⌂⌘⌨⌫⏎⏏⌬"
    "🐭🐮🐱🐵😀😎😭😱😷▣▦◉◐⬟⬆♆♎♏♉♊♋♌∞"
)
# Then everything usable of these Unicode blocks, in this order (first and last code point).
BLOCKS = (
    (0x2600, 0x26FF),  # miscellaneous symbols
    (0x2700, 0x27BF),  # dingbats
    (0x1F400, 0x1F4FF),  # animals
    (0x1F600, 0x1F64F),  # emoticons
    (0x25A0, 0x25FF),  # geometric shapes
    (0x2B00, 0x2BFF),  # more shapes and arrows
    (0x2300, 0x23FF),  # technical
    (0x1F062, 0x1F09F),  # dominoes, upright
    (0x1F0A0, 0x1F0FF),  # playing cards
    (0x2190, 0x21FF),  # arrows
    (0x27F0, 0x27FF),
    (0x2900, 0x297F),
    (0x2200, 0x22FF),  # mathematics
    (0x27C0, 0x27EF),
    (0x2980, 0x29FF),
    (0x2A00, 0x2AFF),
    (0x2100, 0x214F),  # letter-like symbols
    (0x2460, 0x24FF),  # enclosed numbers
    (0x0030, 0x0039),  # digits
    (0x0041, 0x024F),  # Latin
    (0x0370, 0x03FF),  # Greek
    (0x0400, 0x052F),  # Cyrillic
    (0x0530, 0x058F),  # Armenian
    (0x10A0, 0x10FF),  # Georgian
    (0x05D0, 0x05EA),  # Hebrew
    (0x0620, 0x06FF),  # Arabic
    (0x07C0, 0x07FF),  # N'Ko
    (0x0E80, 0x0EFF),  # Lao
    (0x1400, 0x167F),  # Canadian syllabics
    (0x1680, 0x169F),  # Ogham
    (0x2D30, 0x2D7F),  # Tifinagh
    (0xA4D0, 0xA4FF),  # Lisu
    (0x10300, 0x1032F),  # Old Italic
    (0x0250, 0x02AF),  # phonetic
    (0xA640, 0xA69F),  # more Cyrillic
    (0xA720, 0xA7FF),  # more Latin
    (0x1D00, 0x1D7F),  # phonetic
    (0x2C60, 0x2C7F),  # more Latin
)
# Left out: religious and political symbols, death, weapons, hazards, gender signs, gestures.
NOT_NEUTRAL = frozenset(
    "☓☙☝☞☟☠☢☣☤☥☦☧☨☩☪☫☬☭☮☯☰☱☲☳☴☵☶☷☸☿♀♁♂♇♰♱⚊⚋⚌⚍⚎⚏⚐⚑⚒⚔⚕⚚⚜⚢⚣⚤⚥⚦⚧⚨⚩⚭⚮⚯⚰⚱⚲⚳⚴⚵⚶⚷⚸✌✙✚✛✜✝✞✟"
    "✠✡✶😇😈⛢🂠ǂϮϯ"
)

# LVIS's rule: rare classes are in at most 10 training images, common ones in at most 100.
MAX_RARE = 10
MAX_COMMON = 100
# Shares of rare and common classes in LVIS v1 (337 and 461 of 1,203).
RARE_SHARE = 0.28
COMMON_SHARE = 0.38

GLYPH_SIZE = 96  # pixels; longest side of the stored symbols, which are then only scaled down
GLYPH_MARGIN = 5  # pixels at that size; width of the body's rim around the symbol
NEAR_DUPLICATE = 0.93  # cosine similarity from which two symbols count as the same
MIN_IMAGE_SIZE = 64
PIXELS_PER_CLASS = 600  # of an image, at least; more objects would not fit
OBJECT_SIZES = (0.16, 0.55)  # longest side over the image size, log-uniform
MAX_ROTATION = 25.0  # degrees, either way
MIN_VISIBLE = 0.25  # share of an object that others must leave visible
NUM_POSITIONS = 3  # tried for each object
REPEAT_PROBABILITY = 0.1  # that a class comes twice in an image that holds it
NOT_EXHAUSTIVE_PROBABILITY = 0.25  # that a validation image leaves such a second object out
NUM_NEGATIVES = 8  # classes verified as absent, per federated image (LVIS has about 9)
JPEG_QUALITY = 90


def symbol_names(num_classes: int) -> list[tuple[str, str]]:
    """The first ``num_classes`` symbols in a fixed order, as (character, name).

    Pictograms come first, then the symbol, arrow and mathematics blocks of Unicode, then letters of
    the scripts that the font has. Names are Unicode's, in lower case with underscores. Left out are
    symbols that are not neutral (religious, political, ...), glyphs that are tiny or needle-like,
    letters with accents, and symbols that look like an earlier one, or like its mirror image:
    classes stay apart under horizontal flips. DejaVu Sans 2.37 has 2,033 usable symbols.

    Raises:
        ValueError: the font has fewer usable symbols.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    symbols = _usable_symbols(num_classes)
    if len(symbols) < num_classes:
        raise ValueError(
            f"num_classes is {num_classes}, but the font has only {len(symbols)} usable symbols"
        )
    return [(char, _symbol_name(char)) for char in symbols]


def long_tailed_image_counts(num_classes: int, max_image_count: int = 600) -> list[int]:
    """Image counts of a smooth long tail, from ``max_image_count`` down to 1.

    The logarithm falls linearly within each group, and the groups have LVIS v1's shares: 28% rare
    (at most 10 images), 38% common (at most 100) and 34% frequent classes.

    Raises:
        ValueError: ``max_image_count`` leaves no room for frequent classes.
    """
    if max_image_count <= MAX_COMMON:
        raise ValueError(f"max_image_count must be above {MAX_COMMON}, got {max_image_count}")
    # Half-way between the integers, so that rounding keeps each group on its side.
    counts = (1, MAX_RARE + 0.5, MAX_COMMON + 0.5, max_image_count)
    positions = (0, RARE_SHARE, RARE_SHARE + COMMON_SHARE, 1)
    ranks = (np.arange(num_classes)[::-1] + 0.5) / num_classes
    return np.rint(np.exp(np.interp(ranks, positions, np.log(counts)))).astype(int).tolist()


def generate_symbols(
    root: str | os.PathLike,
    *,
    num_classes: int = 100,
    image_size: int = 128,
    seed: int = 0,
    image_counts: Sequence[int] | None = None,
    classes_per_image: int = 6,
    val_images_per_class: int = 20,
    overwrite: bool = False,
) -> dict:
    """Write the dataset into the folder ``root``, or return at once where it already is.

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
        image_size: height and width of the images in pixels, at least 64.
        seed: the same arguments give the same dataset.
        image_counts: training images of each class, ``num_classes`` integers from 1; by default
            :func:`long_tailed_image_counts`, shuffled.
        classes_per_image: how many different classes an image holds on average. It decides how
            many images there are; one object in ten comes twice.
        val_images_per_class: validation images of each class.
        overwrite: replace an earlier dataset of other arguments; a folder that holds anything
            else is never touched.

    Returns:
        dict: ``{"train": {"images", "objects"}, "val": {...}, "classes": {"r", "c", "f"}}``

    Raises:
        ValueError: an argument is out of range, or the font has too few symbols.
        FileExistsError: ``root`` holds something else, or a dataset of other arguments and
            ``overwrite`` is false.
    """
    root = Path(root).resolve()
    _check_arguments(image_size, seed, classes_per_image, val_images_per_class)
    if image_counts is not None:
        image_counts = _checked_image_counts(image_counts, num_classes)
    arguments = {
        "version": VERSION,
        "num_classes": int(num_classes),
        "image_size": int(image_size),
        "seed": int(seed),
        "image_counts": image_counts,
        "classes_per_image": int(classes_per_image),
        "val_images_per_class": int(val_images_per_class),
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

    symbols = symbol_names(num_classes)
    rng = np.random.default_rng(seed)
    symbols = [symbols[i] for i in rng.permutation(num_classes)]
    if image_counts is None:
        image_counts = rng.permutation(long_tailed_image_counts(num_classes)).tolist()
    glyphs = [_render_glyph(char) for char, _ in symbols]
    contents = {
        "train": _assign_classes(image_counts, classes_per_image, rng),
        "val": _assign_classes([val_images_per_class] * num_classes, classes_per_image, rng),
    }

    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = root.with_name(f".{root.name}.{os.getpid()}.tmp")
    replaced = root.with_name(f".{root.name}.{os.getpid()}.old")
    try:
        temporary.mkdir()
        train = _draw_split(temporary / "train", contents["train"], glyphs, image_size, (seed, 0))
        val = _draw_split(temporary / "val", contents["val"], glyphs, image_size, (seed, 1))
        categories = _categories(symbols, train)
        files = {
            "symbols_train.json": _federated(train, categories, 0.0, rng),
            "symbols_val.json": _federated(val, categories, NOT_EXHAUSTIVE_PROBABILITY, rng),
            "symbols_val_exhaustive.json": _exhaustive(val, categories),
        }
        summary = {
            "train": {"images": len(train), "objects": sum(len(a) for _, a in train)},
            "val": {"images": len(val), "objects": sum(len(a) for _, a in val)},
            "classes": {g: sum(c["frequency"] == g for c in categories) for g in "rcf"},
        }
        files["symbols.json"] = {"arguments": arguments, "summary": summary}
        for name, content in files.items():
            (temporary / name).write_text(json.dumps(content), encoding="utf-8")
        if existing is not None:
            os.replace(root, replaced)
        os.replace(temporary, root)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return summary


def _symbol_name(char: str) -> str:
    return unicodedata.name(char).lower().replace(" ", "_")


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Basic layout: the same with and without Pillow's optional libraqm.
    return ImageFont.truetype(_font_file(), size, layout_engine=ImageFont.Layout.BASIC)


def _font_file() -> str:
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def _candidates() -> Iterator[str]:
    """Every character that may become a symbol, in order."""
    in_font = FT2Font(_font_file()).get_charmap()
    yield from PICTOGRAMS
    for first, last in BLOCKS:
        for char in map(chr, range(first, last + 1)):
            is_symbol = unicodedata.category(char) in ("Lu", "Ll", "Lo", "Nd", "No", "Sm", "So")
            is_accented = char.isalpha() and unicodedata.decomposition(char) != ""
            left_out = char in PICTOGRAMS or char in NOT_NEUTRAL
            if ord(char) in in_font and is_symbol and not is_accented and not left_out:
                yield char


@lru_cache(maxsize=4)
def _usable_symbols(limit: int) -> list[str]:
    """The first ``limit`` candidates that are not tiny and do not look like an earlier one.

    PICTOGRAMS are all taken: the faces of dice are alike only to the measure of likeness here.
    """
    symbols = []
    shapes = np.empty((limit, 16 * 16), dtype=np.float32)
    for char in _candidates():
        shape = _glyph_shape(char)
        if shape is None:
            continue
        both_ways = np.stack([shape.ravel(), shape[:, ::-1].ravel()], axis=1)
        similarities = shapes[: len(symbols)] @ both_ways
        if char not in PICTOGRAMS and similarities.max() > NEAR_DUPLICATE:
            continue
        shapes[len(symbols)] = shape.ravel()
        symbols.append(char)
        if len(symbols) == limit:
            break
    return symbols


def _glyph_shape(char: str) -> np.ndarray | None:
    """The glyph scaled into 16 x 16 pixels, with norm 1; None where it is tiny or a needle."""
    image = _draw_char(char, _font(48), stroke_width=0, stroke_fill=0)
    image = image.crop(image.getbbox())
    if max(image.size) < 16 or min(image.size) < 0.3 * max(image.size):
        return None
    image = ImageOps.pad(image, (16, 16), Image.Resampling.BOX)
    shape = np.asarray(image, dtype=np.float32)
    return shape / np.linalg.norm(shape)


def _render_glyph(char: str) -> tuple[Image.Image, Image.Image]:
    """The symbol and its body (the symbol with a rim, enclosed areas filled) as "L" images."""
    left, top, right, bottom = _draw_char(char, _font(GLYPH_SIZE), 0, 0).getbbox()
    font = _font(round(GLYPH_SIZE**2 / max(right - left, bottom - top)))
    ink = _draw_char(char, font, GLYPH_MARGIN, stroke_fill=0)
    body = _draw_char(char, font, GLYPH_MARGIN, stroke_fill=255)
    outside = body.point(lambda alpha: 255 * (alpha >= 128))
    # The corner is outside: there is a margin around the body.
    ImageDraw.floodfill(outside, (0, 0), 1)
    body = Image.fromarray(np.where(np.asarray(outside) == 0, np.uint8(255), np.asarray(body)))
    box = body.getbbox()
    return ink.crop(box), body.crop(box)


def _draw_char(
    char: str, font: ImageFont.FreeTypeFont, stroke_width: int, stroke_fill: int
) -> Image.Image:
    left, top, right, bottom = font.getbbox(char, stroke_width=stroke_width)
    image = Image.new("L", (right - left + 4, bottom - top + 4))
    ImageDraw.Draw(image).text(
        (2 - left, 2 - top),
        char,
        font=font,
        fill=255,
        stroke_width=stroke_width,
        stroke_fill=stroke_fill,
    )
    return image


def _check_arguments(
    image_size: int, seed: int, classes_per_image: int, val_images_per_class: int
) -> None:
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
    """What symbols.json in ``root`` says; None where there is nothing yet."""
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
    contents = [[] for _ in range(num_images)]
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
    glyphs: list[tuple[Image.Image, Image.Image]],
    image_size: int,
    seed: tuple[int, int],
) -> list[tuple[dict, list[dict]]]:
    """Draw and save the images; returns the LVIS image and the annotations of each, without ids."""
    folder.mkdir()
    split = []
    for index, classes in enumerate(tqdm(contents, desc=folder.name, unit="image", disable=None)):
        # A generator per image: its picture depends on nothing but its own classes.
        rng = np.random.default_rng((*seed, index))
        repeats = [c for c in classes if rng.random() < REPEAT_PROBABILITY]
        classes = rng.permutation(classes + repeats).tolist()
        pixels, owner = _draw_image([glyphs[c] for c in classes], image_size, rng)
        file_name = f"{index + 1:06d}.jpg"
        Image.fromarray(pixels).save(folder / file_name, quality=JPEG_QUALITY)
        image = {"id": index + 1, "file_name": file_name, "width": image_size, "height": image_size}
        split.append((image, _annotations(classes, owner, image_id=index + 1)))
    return split


def _annotations(classes: list[int], owner: np.ndarray, image_id: int) -> list[dict]:
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


def _draw_image(
    glyphs: list[tuple[Image.Image, Image.Image]], image_size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the glyphs in turn, later ones over earlier ones.

    Returns:
        tuple: uint8 RGB (H, W, 3), and the index of the glyph that each pixel shows, int (H, W),
        -1 for the background
    """
    canvas = _draw_background(image_size, rng)
    owner = np.full((image_size, image_size), -1)
    areas = np.zeros(len(glyphs), dtype=int)
    visible = np.zeros(len(glyphs), dtype=int)
    for index, glyph in enumerate(glyphs):
        ink, body, x, y = _place_glyph(glyph, owner, areas, visible, rng)
        height, width = body.shape
        region = np.s_[y : y + height, x : x + width]
        mask = body >= 128
        hidden = owner[region][mask]
        visible -= np.bincount(hidden[hidden >= 0], minlength=len(glyphs))
        areas[index] = visible[index] = mask.sum()
        owner[region][mask] = index

        body_color = _contrasting_color(canvas[region].mean(axis=(0, 1)), rng)
        ink_color = _contrasting_color(body_color, rng)
        color = body_color + (ink_color - body_color) * (ink[:, :, None] / 255.0)
        canvas[region] += (color - canvas[region]) * (body[:, :, None] / 255.0)

    canvas += rng.normal(0.0, rng.uniform(0.0, 6.0), canvas.shape)
    picture = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 0.6)))
    return np.asarray(picture), owner


def _place_glyph(
    glyph: tuple[Image.Image, Image.Image],
    owner: np.ndarray,
    areas: np.ndarray,
    visible: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """A random size, rotation and position that leaves enough of every earlier glyph visible.

    Returns:
        tuple: ink and body, uint8 (h, w), and the x and y of their upper left corner
    """
    image_size = len(owner)
    low, high = OBJECT_SIZES
    side = image_size * low * (high / low) ** rng.random()
    angle = rng.uniform(-MAX_ROTATION, MAX_ROTATION)
    for _ in range(50):
        ink, body = _transform_glyph(glyph, side, angle)
        height, width = body.shape
        mask = body >= 128
        positions = []
        # The position that hides least: objects overlap a bit, but do not pile up.
        for _ in range(NUM_POSITIONS):
            x = int(rng.integers(image_size - width + 1))
            y = int(rng.integers(image_size - height + 1))
            hidden = owner[y : y + height, x : x + width][mask]
            hidden = np.bincount(hidden[hidden >= 0], minlength=len(areas))
            if (visible - hidden >= MIN_VISIBLE * areas).all():
                positions.append((hidden.sum(), x, y))
        if positions:
            return ink, body, *min(positions)[1:]
        side = max(0.8 * side, low * image_size)
    raise ValueError(
        f"{len(areas)} objects do not fit into an image of {image_size} pixels; "
        "use a larger image_size or a smaller classes_per_image"
    )


def _transform_glyph(
    glyph: tuple[Image.Image, Image.Image], side: float, angle: float
) -> tuple[np.ndarray, np.ndarray]:
    """Ink and body scaled to a longest side in pixels, rotated by degrees, cropped to the body."""
    scale = side / max(glyph[0].size)
    size = [max(1, round(scale * length)) for length in glyph[0].size]
    ink, body = (
        layer.resize(size, Image.Resampling.BILINEAR).rotate(
            angle, Image.Resampling.BICUBIC, expand=True
        )
        for layer in glyph
    )
    box = body.getbbox()
    return np.asarray(ink.crop(box)), np.asarray(body.crop(box))


def _draw_background(image_size: int, rng: np.random.Generator) -> np.ndarray:
    """A texture of two colours (gradient, stripes or smooth noise), float (H, W, 3), 0 to 255."""
    kind = rng.integers(3)
    if kind == 2:
        cells = rng.integers(0, 256, (rng.integers(3, 12),) * 2, dtype=np.uint8)
        smooth = Image.fromarray(cells).resize((image_size,) * 2, Image.Resampling.BICUBIC)
        blend = np.asarray(smooth) / 255.0
    else:
        angle = rng.uniform(0, 2 * np.pi)
        line = np.linspace(-0.5, 0.5, image_size)
        blend = line * np.cos(angle) + line[:, None] * np.sin(angle) + 0.5
        if kind == 1:
            blend = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2, 10) * blend)
    colors = rng.uniform(0, 255, (2, 3))
    # Not too far apart, so that the objects stay easier to see than the texture.
    colors[1] = colors[0] + 0.5 * (colors[1] - colors[0])
    return colors[0] + (colors[1] - colors[0]) * blend[:, :, None]


def _contrasting_color(reference: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random RGB colour; of eight, the one farthest from the reference."""
    colors = rng.uniform(0, 255, (8, 3))
    return colors[np.linalg.norm(colors - reference, axis=1).argmax()]


def _categories(symbols: list[tuple[str, str]], train: list[tuple[dict, list[dict]]]) -> list[dict]:
    image_counts = np.zeros(len(symbols), dtype=int)
    instance_counts = np.zeros(len(symbols), dtype=int)
    for _, annotations in train:
        indices = np.array([annotation["category_id"] for annotation in annotations]) - 1
        image_counts[np.unique(indices)] += 1
        np.add.at(instance_counts, indices, 1)
    return [
        {
            "id": index + 1,
            "name": name,
            "synonyms": [name],
            "synset": f"u+{ord(char):04x}",
            "def": f"the symbol {char}",
            "frequency": _frequency(image_counts[index]),
            "image_count": int(image_counts[index]),
            "instance_count": int(instance_counts[index]),
        }
        for index, (char, name) in enumerate(symbols)
    ]


def _frequency(image_count: int) -> str:
    if image_count <= MAX_RARE:
        return "r"
    return "c" if image_count <= MAX_COMMON else "f"


def _federated(
    split: list[tuple[dict, list[dict]]],
    categories: list[dict],
    not_exhaustive_probability: float,
    rng: np.random.Generator,
) -> dict:
    """LVIS annotations of a split: a few verified negatives, a few images not exhaustive."""
    images = []
    annotations = []
    for image, objects in split:
        kept = {}
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


def _exhaustive(split: list[tuple[dict, list[dict]]], categories: list[dict]) -> dict:
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
