import numpy as np
import pytest

from eql_seesaw.data.symbol_glyphs import render_glyph, symbol_names


def test_names_are_unique_and_suffice_for_lvis_v1():
    pairs = symbol_names(1203)
    assert len({char for char, _ in pairs}) == len({name for _, name in pairs}) == 1203
    assert ("☂", "umbrella") in pairs[:100]
    assert all(name == name.lower() and " " not in name for _, name in pairs)


def test_names_of_fewer_classes_are_the_first_ones():
    assert symbol_names(30) == symbol_names(1203)[:30]


def test_symbols_are_neutral_and_distinct():
    chars = {char for char, _ in symbol_names(1203)}
    assert not chars & set("☠☪☭✝✡☮☯⚔☸☦卐")
    # The same shape in three alphabets, and mirror images.
    assert len(chars & set("HΗН")) == 1
    assert len(chars & set("☚☛")) == 1
    assert len(chars & set("→←")) == 1


def test_too_many_classes_for_the_font():
    with pytest.raises(ValueError, match=r"num_classes is 100000, but the font has only \d{4} "):
        symbol_names(100000)
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        symbol_names(0)


def test_enclosed_areas_belong_to_the_object():
    ink, body = (np.asarray(layer) for layer in render_glyph("○"))
    center = ink.shape[0] // 2, ink.shape[1] // 2
    assert ink[center] == 0 and body[center] == 255
    assert body[0, 0] == 0
