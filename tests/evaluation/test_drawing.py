from types import SimpleNamespace

import numpy as np
import pycocotools.mask as mask_util
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from eql_seesaw.evaluation import drawing
from eql_seesaw.evaluation.drawing import PALETTE, draw_objects

NAMES = ["cat", "dog", "emu"]
GREY = 120
# A letter that leaves nothing of its ground.
BLOCK = "\N{FULL BLOCK}"


def grey(width, height):
    return np.full((height, width, 3), GREY, dtype=np.uint8)


def drawn(pixels, objects, names=NAMES, **kwargs):
    return np.asarray(draw_objects(pixels, objects, names, **kwargs))


def changed(picture):
    return (picture != GREY).any(axis=2)


def box(x, y, width, height, category_id=0, **kwargs):
    return {"bbox": [x, y, width, height], "category_id": category_id, **kwargs}


def test_only_the_picture_is_drawn_on():
    pixels = grey(64, 64)
    assert changed(drawn(pixels, [box(8, 20, 30, 30)])).any()
    assert (pixels == GREY).all()
    pixels = np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)[:, :, ::-1]
    assert (drawn(pixels, []) == pixels).all()


@pytest.mark.parametrize("longest_side, size", [(None, (40, 20)), (80, (80, 40)), (10, (10, 5))])
def test_size(longest_side, size):
    assert draw_objects(grey(40, 20), [], NAMES, longest_side).size == size


@pytest.mark.parametrize("longest_side", [None, 800])
def test_box_is_where_it_belongs(longest_side):
    picture = drawn(grey(400, 200), [box(100, 80, 200, 100)], longest_side=longest_side)
    scale = picture.shape[1] / 400
    mark = changed(picture)
    # Of the edges, those without the name above them.
    column, row = mark[:, round(200 * scale)], mark[round(150 * scale)]
    assert abs(np.flatnonzero(column).max() / scale - 180) <= 3
    assert abs(np.flatnonzero(row).min() / scale - 100) <= 3
    assert abs(np.flatnonzero(row).max() / scale - 300) <= 3
    assert not mark[round(130 * scale), round(200 * scale)]


def test_a_mask_alone_has_the_box_around_it():
    mask = {"segmentation": masks()["rle"], "category_id": 0}
    with_box = {**mask, "bbox": [10, 20, 40, 20]}
    assert (drawn(grey(64, 64), [mask]) == drawn(grey(64, 64), [with_box])).all()


def masks():
    mask = np.zeros((64, 64), dtype=np.uint8, order="F")
    mask[20:40, 10:50] = 1
    rle = mask_util.encode(mask)
    ends = np.flatnonzero(np.diff(mask.ravel(order="F").astype(int))) + 1
    runs = np.diff([0, *ends, mask.size])
    return {
        "polygon": [[10, 20, 50, 20, 50, 40, 10, 40]],
        "rle": {"size": [64, 64], "counts": rle["counts"].decode()},
        "runs": {"size": [64, 64], "counts": [int(run) for run in runs]},
    }


@pytest.mark.parametrize("form", ["polygon", "rle", "runs"])
def test_forms_of_masks(form):
    picture = drawn(grey(64, 64), [box(10, 20, 40, 20, segmentation=masks()[form])])
    inside = picture[24:36, 14:46]
    assert (inside == inside[0, 0]).all() and (inside != GREY).any()
    assert (picture[45:] == GREY).all()


def test_the_last_object_lies_on_top():
    objects = [box(10, 20, 40, 20, k, segmentation=masks()["rle"]) for k in (0, 1)]
    first, last = drawn(grey(64, 64), objects), drawn(grey(64, 64), objects[::-1])
    assert tuple(first[40, 30]) == PALETTE[1] and tuple(last[40, 30]) == PALETTE[0]


def test_names_are_not_hidden_by_other_objects():
    small = box(20, 60, 30, 30, 1)
    name_only = drawn(grey(128, 128), [small])
    rle = mask_util.encode(np.ones((128, 128), dtype=np.uint8, order="F"))
    covered = drawn(grey(128, 128), [small, box(0, 0, 128, 128, 0, segmentation=rle)])
    label = (slice(48, 59), slice(21, 40))
    assert (name_only[label] == PALETTE[1]).all(axis=2).any()
    assert (covered[label] == name_only[label]).all()


def test_scores_are_percent():
    plain, scored = (
        drawn(grey(128, 64), [box(10, 40, 20, 20, **score)]) for score in ({}, {"score": 0.875})
    )
    named = drawn(grey(128, 64), [box(10, 40, 20, 20)], ["cat 88%"])
    assert (scored == named).all() and (scored != plain).any()


def test_names_stay_inside_the_image():
    def num_black(x, y):
        return (drawn(grey(400, 300), [box(x, y, 20, 20)], [BLOCK]) == 0).all(axis=2).sum()

    corners = (0, 0), (380, 0), (0, 280), (380, 280), (-30, -30)
    assert {num_black(*corner) for corner in corners} == {num_black(200, 150)} != {0}


def contrast(one, other):
    """Of two colours (red, green, blue) from 0 to 255, by WCAG 2."""
    dark, light = sorted(luminance(color) for color in (one, other))
    return (light + 0.05) / (dark + 0.05)


def luminance(color):
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_names_are_readable_on_their_colour():
    """WCAG asks for a contrast of 4.5 between letters and ground."""
    for k, color in enumerate(PALETTE):
        picture = drawn(grey(128, 128), [box(20, 60, 60, 60, k)], [BLOCK] * len(PALETTE))
        (text,) = {value for value in (0, 255) if (picture == value).all(axis=2).any()}
        assert contrast(color, (text,) * 3) >= 4.5


def test_empty_boxes_and_images_of_one_pixel():
    """A box of zero width or height, as mask heads give, is drawn as a line."""
    assert changed(drawn(grey(64, 64), [box(10, 40, 0, 0), box(60, 40, -5, 10)])).any()
    assert draw_objects(grey(1, 1), [box(0, 0, 1, 1)], NAMES).size == (1, 1)
    assert draw_objects(grey(5000, 1), [], NAMES, 384).size == (384, 1)


@pytest.fixture
def chinese_font(tmp_path):
    """A font that has Latin letters and one more, a block that fills its place."""
    builder = FontBuilder(1000)
    glyphs = {ord(letter): f"glyph{ord(letter)}" for letter in "catdogemu 0123456789%人"}
    builder.setupGlyphOrder([".notdef", *glyphs.values()])
    builder.setupCharacterMap(glyphs)
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 800), (900, 800), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    block = pen.glyph()
    builder.setupGlyf(dict.fromkeys([".notdef", *glyphs.values()], block))
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *glyphs.values()], (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Blocks", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "blocks.ttf")
    return str(tmp_path / "blocks.ttf")


def test_font_that_has_the_letters(chinese_font, monkeypatch, caplog):
    names = ("人", "cat")
    fonts = [SimpleNamespace(fname=path) for path in ("/gone.ttf", chinese_font)]
    monkeypatch.setattr(drawing.font_manager.fontManager, "ttflist", fonts[:1])
    drawing._font_file.cache_clear()
    for _ in range(2):
        assert drawing.label_font(14, names).path == drawing.DEJAVU
    assert caplog.text.count("as in '人'") == 1
    monkeypatch.setattr(drawing.font_manager.fontManager, "ttflist", fonts)
    drawing._font_file.cache_clear()
    assert drawing.label_font(14, names).path == chinese_font
    assert drawing.label_font(14, ("Katze",)).path == drawing.DEJAVU
    drawing._font_file.cache_clear()
