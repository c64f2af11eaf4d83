import copy
import json
import math
import random
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import MetadataCatalog

from eql_seesaw.data.instances_json import load_instances_json

from .junk import replace_one_value

CONTENT = {
    "images": [
        {
            "id": 7,
            "coco_url": "http://images.cocodataset.org/val2017/b.jpg",
            "height": 20,
            "width": 30,
            "neg_category_ids": [5],
            "not_exhaustive_category_ids": [],
        },
        {"id": 3, "file_name": "folder/a.jpg", "height": 10, "width": 10},
    ],
    "annotations": [
        {
            "id": 11,
            "image_id": 7,
            "category_id": 90,
            "bbox": [1, 2, 3, 4],
            "segmentation": [[1, 2, 4, 2, 4, 6]],
        },
        {
            "id": 12,
            "image_id": 3,
            "category_id": 5,
            "bbox": [0, 0, 1, 4],
            "iscrowd": 1,
            "segmentation": {"size": [10, 10], "counts": [0, 4, 96]},
        },
        {"id": 13, "image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4]},
    ],
    "categories": [
        {"id": 90, "name": "swan"},
        {"id": 2, "name": "tit"},
        {"id": 5, "name": "owl"},
    ],
}


@pytest.fixture
def content():
    return copy.deepcopy(CONTENT)


def write(content, path):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def error_of(content, tmp_path):
    json_file = write(content, tmp_path / "x.json")
    with pytest.raises(ValueError) as info:
        load_instances_json(json_file, "images")
    message = str(info.value)
    assert message.startswith(json_file) and "\n" not in message
    return message


def test_loads_detectron2_format(content, tmp_path):
    json_file = write(content, tmp_path / "x.json")
    first, second = load_instances_json(json_file, "images", "birds")
    assert (first["image_id"], second["image_id"]) == (3, 7)
    assert first["file_name"] == "images/folder/a.jpg"
    assert second["file_name"] == "images/val2017/b.jpg"
    assert (second["height"], second["width"]) == (20, 30)
    assert [a["category_id"] for a in second["annotations"]] == [2, 0]
    assert second["annotations"][0]["segmentation"] == [[1, 2, 4, 2, 4, 6]]
    assert "segmentation" not in second["annotations"][1]
    assert second["neg_category_ids"] == [1]
    assert second["not_exhaustive_category_ids"] == []
    assert "neg_category_ids" not in first
    (crowd,) = first["annotations"]
    assert crowd["iscrowd"] == 1
    assert np.flatnonzero(mask_util.decode(crowd["segmentation"]).T.ravel()).tolist() == [
        0,
        1,
        2,
        3,
    ]
    metadata = MetadataCatalog.get("birds")
    assert metadata.thing_classes == ["tit", "owl", "swan"]
    assert metadata.thing_dataset_id_to_contiguous_id == {2: 0, 5: 1, 90: 2}


@pytest.mark.parametrize(
    ("section", "index", "change", "expected"),
    [
        (
            "annotations",
            0,
            {"segmentation": [[1, 2, 3, 4]]},
            "annotation 11: polygon with 4 numbers",
        ),
        ("annotations", 0, {"segmentation": [[1] * 7]}, "annotation 11: polygon with 7 numbers"),
        ("annotations", 0, {"segmentation": [5]}, "annotation 11: polygon is 5"),
        ("annotations", 0, {"segmentation": "x"}, "annotation 11: segmentation is 'x'"),
        ("annotations", 0, {"category_id": 4}, "annotation 11: category_id 4 is not in categories"),
        ("annotations", 0, {"category_id": [2]}, "category_id [2] is not in categories"),
        ("annotations", 0, {"image_id": 4}, "annotation 11: image_id 4 is not in images"),
        ("annotations", 0, {"id": 12}, "annotations[1]: id 12 occurs more than once"),
        ("annotations", 0, {"id": "12"}, 'annotations[0]: no integer "id"'),
        ("annotations", 0, {"bbox": None}, "annotation 11: bbox is None"),
        ("annotations", 0, {"bbox": [1, 2, math.nan, 4]}, "annotation 11: bbox is [1, 2, nan, 4]"),
        (
            "annotations",
            1,
            {"segmentation": {"size": [9, 10], "counts": [90]}},
            "annotation 12: RLE of size [9, 10], but the image has [10, 10]",
        ),
        (
            "annotations",
            1,
            {"segmentation": {"size": [10, 10], "counts": [90]}},
            "annotation 12: RLE of 90 pixels, but the image has 100",
        ),
        ("images", 0, {"id": 3}, "images[1]: id 3 occurs more than once"),
        ("images", 0, {"height": "20"}, "image 7: height and width are ['20', 30]"),
        ("images", 0, {"coco_url": None}, 'image 7: no "file_name"'),
        ("images", 0, {"file_name": "/etc/a.jpg"}, "image 7: '/etc/a.jpg' leads out"),
        ("images", 0, {"file_name": "b/../../a.jpg"}, "image 7: 'b/../../a.jpg' leads out"),
        ("images", 0, {"file_name": "..\\a.jpg"}, "leads out of the image folder"),
        ("images", 0, {"neg_category_ids": [2, 6]}, "image 7: neg_category_ids holds 6"),
        ("categories", 0, {"id": 2}, "id 2 occurs more than once"),
        ("categories", 0, {"name": None}, "category 90: name is None"),
    ],
)
def test_names_what_is_wrong(content, tmp_path, section, index, change, expected):
    content[section][index].update(change)
    assert expected in error_of(content, tmp_path)


def test_counts_problems_of_one_kind(content, tmp_path):
    for annotation in content["annotations"]:
        annotation["segmentation"] = [[1, 2, 3, 4]]
    content["annotations"][2]["category_id"] = 4
    message = error_of(content, tmp_path)
    assert message.endswith(
        "annotation 11: polygon with 4 numbers (the first of 2 broken polygons)"
    )


@pytest.mark.parametrize("empty", [None, [], {}])
def test_empty_segmentation_is_none(content, tmp_path, empty):
    content["annotations"][0]["segmentation"] = empty
    _, second = load_instances_json(write(content, tmp_path / "x.json"), "images")
    assert all("segmentation" not in annotation for annotation in second["annotations"])


@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
def test_missing_or_empty_section(content, tmp_path, section):
    content[section] = []
    assert f"{section}: the list is empty" in error_of(content, tmp_path)
    del content[section]
    assert f"{section}: no list" in error_of(content, tmp_path)


def test_junk_gives_one_line(content, tmp_path):
    rng = random.Random(0)
    failures = 0
    for _ in range(300):
        broken = copy.deepcopy(content)
        for _ in range(rng.randint(1, 3)):
            replace_one_value(broken, rng)
        json_file = write(broken, tmp_path / "x.json")
        try:
            load_instances_json(json_file, "images")
        except ValueError as error:
            failures += 1
            assert str(error).startswith(json_file) and "\n" not in str(error)
    assert failures > 100


def test_real_photographs(coco200):
    dicts = load_instances_json(
        str(coco200 / "instances_train2017.json"), str(coco200 / "train2017"), "coco200_train"
    )
    assert len(dicts) == 100 and sum(len(d["annotations"]) for d in dicts) == 739
    assert all(Path(d["file_name"]).is_file() for d in dicts)
    metadata = MetadataCatalog.get("coco200_train")
    assert len(metadata.thing_classes) == 80
    assert metadata.thing_dataset_id_to_contiguous_id[90] == 79
