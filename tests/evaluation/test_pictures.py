import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import Metadata
from detectron2.structures import BoxMode
from PIL import Image

from eql_seesaw.evaluation import draw_predictions
from eql_seesaw.evaluation.drawing import draw_objects
from eql_seesaw.evaluation.pictures import CAPTION_HEIGHT, GAP, PAIR_GAP, PANEL_SIDE

METADATA = Metadata(
    thing_classes=["umbrella", "anchor", "die"],
    thing_dataset_id_to_contiguous_id={3: 0, 5: 1, 9: 2},
)
GREY = (120, 120, 120)


@pytest.fixture
def dataset_dicts(tmp_path):
    """Six grey images of 64 x 128 with an umbrella each; the last also holds an anchor."""
    dicts = []
    for i in range(6):
        file_name = tmp_path / f"{i}.png"
        Image.new("RGB", (128, 64), GREY).save(file_name)
        annotation = {
            "bbox": [16, 16, 48, 48],
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": 0,
            "segmentation": [[16, 16, 48, 16, 48, 48, 16, 48]],
        }
        dicts.append(
            {
                "file_name": str(file_name),
                "image_id": 100 + i,
                "height": 64,
                "width": 128,
                "annotations": [annotation],
            }
        )
    anchor = {"bbox": [80, 16, 32, 32], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}
    dicts[5]["annotations"].append(anchor)
    return dicts


PAIR_WIDTH = 2 * PANEL_SIDE + GAP
ROW_HEIGHT = PANEL_SIDE // 2 + GAP


def panel(picture, index, side):
    """Ground truth (side 0) or predictions (side 1) of the image drawn at ``index``."""
    row, column = divmod(index, 2)
    x = GAP + column * (PAIR_WIDTH + PAIR_GAP) + side * (PANEL_SIDE + GAP)
    y = CAPTION_HEIGHT + row * ROW_HEIGHT
    return np.asarray(picture)[y : y + PANEL_SIDE // 2, x : x + PANEL_SIDE]


def draw(tmp_path, *args, **kwargs):
    output_file = tmp_path / "pictures" / "val.png"
    draw_predictions(*args, METADATA, str(output_file), **kwargs)
    assert [path.name for path in output_file.parent.iterdir()] == ["val.png"]
    with Image.open(output_file) as picture:
        assert picture.format == "PNG"
        return picture.convert("RGB")


@pytest.mark.parametrize(
    ("num_pictures", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (6, 2, 3), (8, 2, 3)]
)
def test_two_pairs_per_row(tmp_path, dataset_dicts, num_pictures, columns, rows):
    picture = draw(tmp_path, dataset_dicts, [], num_pictures=num_pictures)
    width = columns * PAIR_WIDTH + (columns - 1) * PAIR_GAP + 2 * GAP
    assert picture.size == (width, CAPTION_HEIGHT + rows * ROW_HEIGHT)


def test_images_follow_each_other_row_by_row(tmp_path, dataset_dicts):
    colors = [(60 * i, 90, 200 - 40 * i) for i in range(3)]
    for image, color in zip(dataset_dicts, colors, strict=False):
        Image.new("RGB", (128, 64), color).save(image["file_name"])
        image["annotations"] = []
    picture = draw(tmp_path, dataset_dicts[:3], [])
    drawn = [tuple(panel(picture, index, 0)[0, 0]) for index in range(3)]
    assert sorted(drawn) == sorted(colors)
    for index in range(3):
        for side in (0, 1):
            assert (panel(picture, index, side) == drawn[index]).all()
    assert (panel(picture, 3, 0) == 255).all() and (panel(picture, 3, 1) == 255).all()


def test_rows_are_as_high_as_their_highest_image(tmp_path, dataset_dicts):
    Image.new("RGB", (64, 128), GREY).save(dataset_dicts[1]["file_name"])
    dataset_dicts[1].update(height=128, width=64)
    picture = draw(tmp_path, dataset_dicts[:2], [])
    assert picture.height == CAPTION_HEIGHT + PANEL_SIDE + GAP


def test_captions_stand_over_every_pair(tmp_path, dataset_dicts):
    picture = draw(tmp_path, dataset_dicts[:2], [])
    header = np.asarray(picture)[:CAPTION_HEIGHT]
    first, second = (header[:, x : x + PAIR_WIDTH] for x in (GAP, GAP + PAIR_WIDTH + PAIR_GAP))
    assert (first == second).all()
    for half in (first[:, :PANEL_SIDE], first[:, -PANEL_SIDE:]):
        assert (half < 128).any()


def test_image_without_predictions_is_shown_plain(tmp_path, dataset_dicts):
    low = {"image_id": 100, "category_id": 3, "bbox": [16, 16, 32, 32], "score": 0.29}
    picture = draw(tmp_path, dataset_dicts[:1], [low])
    assert (panel(picture, 0, 1) == GREY).all()
    assert not (panel(picture, 0, 0) == GREY).all()


def test_prediction_looks_like_its_ground_truth(tmp_path, dataset_dicts):
    mask = np.zeros((64, 128), dtype=np.uint8, order="F")
    mask[16:48, 16:48] = 1
    rle = mask_util.encode(mask)
    prediction = {
        "image_id": 100,
        "category_id": 3,
        "bbox": [16, 16, 32, 32],
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
        "score": 0.8,
    }
    picture = draw(tmp_path, dataset_dicts[:1], [prediction])
    # Pixels in the middle of the object, and on the edge of its box.
    inside, edge = (slice(75, 120), slice(75, 120)), (slice(60, 135), 48)
    ground_truth, predicted = panel(picture, 0, 0), panel(picture, 0, 1)
    for pixels in (inside, edge):
        assert (ground_truth[pixels] != GREY).any()
        assert (ground_truth[pixels] == predicted[pixels]).all()

    as_anchor = draw(tmp_path, dataset_dicts[:1], [{**prediction, "category_id": 5}])
    assert (panel(as_anchor, 0, 1)[inside] != ground_truth[inside]).any()


def test_score_is_written_and_masks_are_optional(tmp_path, dataset_dicts):
    prediction = {"image_id": 100, "category_id": 3, "bbox": [16, 16, 32, 32], "score": 0.5}
    half = draw(tmp_path, dataset_dicts[:1], [prediction])
    more = draw(tmp_path, dataset_dicts[:1], [{**prediction, "score": 0.8}])
    assert panel(half, 0, 0).tobytes() == panel(more, 0, 0).tobytes()
    assert panel(half, 0, 1).tobytes() != panel(more, 0, 1).tobytes()


def test_colors_of_the_photograph(tmp_path, dataset_dicts):
    Image.new("RGB", (128, 64), (200, 100, 50)).save(dataset_dicts[0]["file_name"])
    picture = draw(tmp_path, dataset_dicts[:1], [])
    assert (panel(picture, 0, 1) == (200, 100, 50)).all()


def test_images_of_rare_classes_come_first(tmp_path, dataset_dicts):
    expected = draw(tmp_path, dataset_dicts[5:], [])
    assert draw(tmp_path, dataset_dicts, [], num_pictures=1).tobytes() == expected.tobytes()
    # By the training set's counts it is the umbrella that is rare, which any image can show.
    chosen = {
        draw(
            tmp_path, dataset_dicts, [], num_pictures=1, seed=seed, image_counts=[1, 50, 50]
        ).tobytes()
        for seed in range(8)
    }
    assert chosen != {expected.tobytes()}


def test_choice_is_repeatable(tmp_path, dataset_dicts):
    for i, image in enumerate(dataset_dicts):
        Image.new("RGB", (128, 64), (20 * i, 90, 90)).save(image["file_name"])
    pictures = [
        draw(tmp_path, dataset_dicts, [], num_pictures=3, seed=seed).tobytes()
        for seed in (0, 0, 1, 2, 3)
    ]
    assert pictures[0] == pictures[1]
    assert len(set(pictures)) > 1


def test_nothing_to_draw(tmp_path, dataset_dicts):
    with pytest.raises(ValueError, match="0 images"):
        draw_predictions([], [], METADATA, str(tmp_path / "val.png"))
    with pytest.raises(ValueError, match="num_pictures=0"):
        draw_predictions(dataset_dicts, [], METADATA, str(tmp_path / "val.png"), num_pictures=0)


def test_nothing_half_written(tmp_path, dataset_dicts, monkeypatch):
    output_file = tmp_path / "pictures" / "val.png"
    draw(tmp_path, dataset_dicts, [])
    before = output_file.read_bytes()

    def fail(self, f, **kwargs):
        f.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        draw_predictions(dataset_dicts, [], METADATA, str(output_file), num_pictures=1)
    assert list(output_file.parent.iterdir()) == [output_file]
    assert output_file.read_bytes() == before


def test_panels_are_drawn_as_prediction_draws_whole_images(tmp_path, dataset_dicts):
    """One way of drawing for both: the class names and the order are handed on."""
    anchor = {"image_id": 105, "category_id": 5, "bbox": [20, 20, 40, 30], "score": 0.9}
    umbrella = {"image_id": 105, "category_id": 3, "bbox": [30, 25, 40, 30], "score": 0.6}
    picture = draw(tmp_path, dataset_dicts[5:], [anchor, umbrella])
    pixels = np.full((64, 128, 3), GREY[0], dtype=np.uint8)
    lowest_first = [{**umbrella, "category_id": 0}, {**anchor, "category_id": 1}]
    expected = draw_objects(pixels, lowest_first, METADATA.thing_classes, PANEL_SIDE)
    assert (panel(picture, 0, 1) == np.asarray(expected)).all()
