import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from eql_seesaw.evaluation import draw_pictures
from eql_seesaw.evaluation.drawing import draw_objects
from eql_seesaw.evaluation.pictures import (
    CAPTION_HEIGHT,
    GAP,
    PAIR_GAP,
    PANEL_SIDE,
    choose_images,
)
from eql_seesaw.evaluation.result import Result
from eql_seesaw.evaluation.results_file import ResultsFile

NAMES = ("umbrella", "anchor", "die")
IDS = (3, 5, 9)
GREY = (120, 120, 120)
PAIR_WIDTH = 2 * PANEL_SIDE + GAP
ROW_HEIGHT = PANEL_SIDE // 2 + GAP


@pytest.fixture
def draw(tmp_path):
    """
    Draws the first of six grey images of 64 x 128 with an umbrella each; the last also holds an
    anchor.
    """
    annotations = [
        {
            "image_id": 100 + i,
            "category_id": 3,
            "bbox": [16, 16, 32, 32],
            "segmentation": [[16, 16, 48, 16, 48, 48, 16, 48]],
        }
        for i in range(6)
    ]
    annotations.append({"image_id": 105, "category_id": 5, "bbox": [80, 16, 32, 32]})
    path = tmp_path / "pictures" / "val.png"

    def draw(num_there, results, colors=None, size=(128, 64), objects=annotations, **kwargs):
        for i in range(num_there):
            color = colors[i] if colors else GREY
            Image.new("RGB", size, color).save(tmp_path / f"{i}.png")
        (tmp_path / "results.json").write_text(json.dumps(results))
        result = Result(
            "tiny_val",
            "",
            "hotcoco",
            300,
            6,
            num_there,
            "2026-01-02 03:04",
            {},
            [{"id": i, "name": n, "train_images": 5} for i, n in zip(IDS, NAMES, strict=True)],
            {100 + i: str(tmp_path / f"{i}.png") for i in range(num_there)},
        )
        result.detections = ResultsFile(str(tmp_path / "results.json"))
        result.ground_truth = {"images": [], "annotations": objects, "categories": []}
        draw_pictures(result, str(path), **kwargs)
        assert [path.name for path in path.parent.iterdir()] == ["val.png"]
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            return picture.convert("RGB")

    return draw


def panel(picture, index, side):
    """Ground truth (side 0) or predictions (side 1) of the image drawn at ``index``."""
    row, column = divmod(index, 2)
    x = GAP + column * (PAIR_WIDTH + PAIR_GAP) + side * (PANEL_SIDE + GAP)
    y = CAPTION_HEIGHT + row * ROW_HEIGHT
    return np.asarray(picture)[y : y + PANEL_SIDE // 2, x : x + PANEL_SIDE]


def test_two_pairs_per_row(draw):
    for num_images, columns, rows in ((1, 1, 1), (3, 2, 2), (8, 2, 3)):
        width = columns * PAIR_WIDTH + (columns - 1) * PAIR_GAP + 2 * GAP
        size = width, CAPTION_HEIGHT + rows * ROW_HEIGHT
        assert draw(6, [], num_images=num_images).size == size
    assert draw(2, [], size=(64, 128)).height == CAPTION_HEIGHT + PANEL_SIDE + GAP


def test_images_follow_each_other_row_by_row_under_their_captions(draw):
    colors = [(60 * i, 90, 200 - 40 * i) for i in range(3)]
    picture = draw(3, [], colors, objects=[])
    drawn = [tuple(panel(picture, index, 0)[0, 0]) for index in range(3)]
    assert sorted(drawn) == sorted(colors)
    for index in range(3):
        for side in (0, 1):
            assert (panel(picture, index, side) == drawn[index]).all()
    assert (panel(picture, 3, 0) == 255).all() and (panel(picture, 3, 1) == 255).all()
    header = np.asarray(picture)[:CAPTION_HEIGHT]
    first, second = (header[:, x : x + PAIR_WIDTH] for x in (GAP, GAP + PAIR_WIDTH + PAIR_GAP))
    assert (first == second).all()
    for half in (first[:, :PANEL_SIDE], first[:, -PANEL_SIDE:]):
        assert (half < 128).any()


def test_image_without_predictions_is_shown_plain(draw):
    low = {"image_id": 100, "category_id": 3, "bbox": [16, 16, 32, 32], "score": 0.29}
    picture = draw(1, [low])
    assert (panel(picture, 0, 1) == GREY).all()
    assert not (panel(picture, 0, 0) == GREY).all()


def test_panels_are_drawn_as_prediction_draws_whole_images(draw):
    """One way of drawing for both: the class names and the order are handed on."""
    mask = np.zeros((64, 128), dtype=np.uint8, order="F")
    mask[16:48, 16:48] = 1
    rle = mask_util.encode(mask)
    results = [
        {
            "image_id": 100,
            "category_id": category_id,
            "bbox": box,
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
            "score": score,
        }
        for category_id, box, score in ((5, [20, 20, 40, 30], 0.9), (3, [30, 25, 40, 30], 0.6))
    ]
    picture = draw(1, results)
    objects = [
        {**result, "category_id": IDS.index(result["category_id"])} for result in results[::-1]
    ]
    pixels = np.full((64, 128, 3), GREY, dtype=np.uint8)
    expected = draw_objects(pixels, objects, NAMES, longest_side=PANEL_SIDE)
    assert (panel(picture, 0, 1) == np.asarray(expected)).all()


def test_images_of_rare_classes_come_first():
    classes_of_images = {i: {0} for i in range(100, 105)} | {105: {0, 1}}
    assert choose_images(classes_of_images, 1) == [105]
    assert set(choose_images(classes_of_images, 8)) == set(classes_of_images)
    # By the training set's counts it is class 0 that is rare, which any image can show.
    chosen = choose_images(classes_of_images, 2, train_images=[1, 50])
    assert chosen == choose_images(classes_of_images, 2, train_images=[1, 50])
    assert chosen[0] != 105 and chosen[1] == 105
