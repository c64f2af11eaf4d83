import numpy as np

from eql_seesaw.data import symbol_images
from eql_seesaw.data.symbol_glyphs import render_glyph
from eql_seesaw.data.symbol_images import draw_image


def test_masks_lie_on_the_drawn_objects():
    glyph = render_glyph("★")
    for seed in range(10):
        background, _ = draw_image([], 96, np.random.default_rng(seed))
        pixels, owner = draw_image([glyph], 96, np.random.default_rng(seed))
        changed = np.abs(pixels.astype(int) - background).max(axis=2) > 50
        for axis in (0, 1):
            drawn = np.flatnonzero(changed.any(axis))
            masked = np.flatnonzero((owner == 0).any(axis))
            assert abs(drawn[0] - masked[0]) <= 1 and abs(drawn[-1] - masked[-1]) <= 1


def test_later_objects_hide_earlier_ones():
    glyphs = [render_glyph(char) for char in "★☎♥⚀▣◉"]
    for seed in range(10):
        before, owner_before = draw_image(glyphs[:-1], 96, np.random.default_rng(seed))
        after, owner = draw_image(glyphs, 96, np.random.default_rng(seed))
        changed = np.abs(after.astype(int) - before).max(axis=2) > 50
        hidden = changed & (owner_before >= 0)
        assert (owner[hidden] == 5).sum() >= 0.8 * hidden.sum()


def test_enough_of_every_object_stays_visible():
    glyphs = [render_glyph(char) for char in "★☎♥⚀▣◉♚☂"]
    rng = np.random.default_rng(0)
    for _ in range(20):
        owner = np.full((96, 96), -1)
        areas, visible = np.zeros((2, len(glyphs)), dtype=int)
        for index, glyph in enumerate(glyphs):
            _, body, x, y = symbol_images._place_glyph(glyph, owner, areas, visible, rng)
            region = owner[y : y + body.shape[0], x : x + body.shape[1]]
            region[body >= 128] = index
            areas[index] = (body >= 128).sum()
            visible = np.bincount(owner[owner >= 0], minlength=len(glyphs))
        assert (visible >= 0.25 * areas).all()
