"""The symbols of the generated dataset: which ones, their names, and how each one is drawn."""

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont, ImageOps

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

GLYPH_SIZE = 96  # pixels; longest side of the stored symbols, which are then only scaled down
GLYPH_MARGIN = 5  # pixels at that size; width of the body's rim around the symbol
NEAR_DUPLICATE = 0.93  # cosine similarity from which two symbols count as the same


class Glyph(NamedTuple):
    """
    A drawn symbol, two "L" images of the same size.

    Attributes:
        ink: opacity of the symbol itself.
        body: opacity of what it is drawn on: the symbol with a rim, enclosed areas filled.
    """

    ink: Image.Image
    body: Image.Image


def symbol_names(num_classes: int) -> list[tuple[str, str]]:
    """
    The first ``num_classes`` symbols in a fixed order, as (character, name).

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
    return [(c, unicodedata.name(c).lower().replace(" ", "_")) for c in symbols]


def render_glyph(char: str) -> Glyph:
    """Draw a symbol whose longest side, without its body's rim, has ``GLYPH_SIZE`` pixels."""
    box = _draw_char(char, _font(GLYPH_SIZE), 0, 0).getbbox()
    assert box is not None, f"{char!r} leaves no ink"
    left, top, right, bottom = box
    font = _font(round(GLYPH_SIZE**2 / max(right - left, bottom - top)))
    ink = _draw_char(char, font, GLYPH_MARGIN, stroke_fill=0)
    body = _draw_char(char, font, GLYPH_MARGIN, stroke_fill=255)
    outside = body.point(lambda alpha: 255 * (alpha >= 128))
    # The corner is outside: there is a margin around the body.
    ImageDraw.floodfill(outside, (0, 0), 1)
    body = Image.fromarray(np.where(np.asarray(outside) == 0, np.uint8(255), np.asarray(body)))
    box = body.getbbox()
    return Glyph(ink.crop(box), body.crop(box))


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
    """
    The first ``limit`` candidates that are not tiny and do not look like an earlier one.

    PICTOGRAMS are all taken: the faces of dice are alike only to the measure of likeness here.
    """
    symbols: list[str] = []
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


def _draw_char(
    char: str, font: ImageFont.FreeTypeFont, stroke_width: int, stroke_fill: int
) -> Image.Image:
    left, top, right, bottom = font.getbbox(char, stroke_width=stroke_width)
    size = right - left + 4, bottom - top + 4
    image = Image.new("L", size)  # type: ignore[arg-type]  # whole, as the stroke's width
    ImageDraw.Draw(image).text(
        (2 - left, 2 - top),
        char,
        font=font,
        fill=255,
        stroke_width=stroke_width,
        stroke_fill=stroke_fill,
    )
    return image


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Basic layout: the same with and without Pillow's optional libraqm.
    return ImageFont.truetype(_font_file(), size, layout_engine=ImageFont.Layout.BASIC)


def _font_file() -> str:
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
