import copy
import json
import math
import random
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from eql_seesaw.config import add_long_tail_config
from eql_seesaw.data.register import (
    find_dataset,
    is_own_dataset,
    load_instances_json,
    register_datasets,
    register_instances,
)

COCO200 = Path(__file__).parents[3] / "shared" / "data" / "coco200"

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


@pytest.fixture(autouse=True)
def restore_catalogs():
    datasets, metadata = dict(DatasetCatalog), dict(MetadataCatalog)
    yield
    for catalog, before in ((DatasetCatalog, datasets), (MetadataCatalog, metadata)):
        catalog.clear()
        catalog.update(before)


def write(content, path):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def make_cfg(register, train=(), test=()):
    cfg = get_cfg()
    add_long_tail_config(cfg)
    for name, entry in register.items():
        cfg.DATASETS.REGISTER[name] = CfgNode(entry) if isinstance(entry, dict) else entry
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = train, test
    return cfg


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
        ("annotations", 0, {"id": 12}, "id 12 occurs more than once"),
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
        ("images", 0, {"id": 3}, "id 3 occurs more than once"),
        ("images", 0, {"height": "20"}, "image 7: height and width are ['20', 30]"),
        ("images", 0, {"coco_url": None}, 'image 7: no "file_name"'),
        ("images", 0, {"file_name": "/etc/a.jpg"}, "image 7: '/etc/a.jpg' leads out"),
        ("images", 0, {"file_name": "b/../../a.jpg"}, "image 7: 'b/../../a.jpg' leads out"),
        ("images", 0, {"file_name": "..\\a.jpg"}, "leads out of the image folder"),
        ("images", 0, {"neg_category_ids": [2, 6]}, "image 7: neg_category_ids holds 6"),
        ("categories", 0, {"id": 2}, "id 2 occurs more than once"),
        ("categories", 0, {"name": None}, 'category 90: no "name"'),
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


@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
def test_missing_or_empty_section(content, tmp_path, section):
    content[section] = []
    assert f'"{section}" is empty' in error_of(content, tmp_path)
    del content[section]
    assert f'no list "{section}"' in error_of(content, tmp_path)


def test_file_that_is_not_complete_json(content, tmp_path):
    assert "not JSON, or not complete" in error_of(json.dumps(content)[:-20], tmp_path)
    assert "holds no object" in error_of("[]", tmp_path)


def test_junk_gives_one_line(content, tmp_path):
    rng = random.Random(0)
    junk = [None, True, -1, 1e400, math.nan, "", "x", [], [[]], {}, {"id": 1}, 10**400]
    failures = 0
    for _ in range(300):
        broken = copy.deepcopy(content)
        for _ in range(rng.randint(1, 3)):
            replace_one_value(broken, rng, junk)
        json_file = write(broken, tmp_path / "x.json")
        try:
            load_instances_json(json_file, "images")
        except ValueError as error:
            failures += 1
            assert str(error).startswith(json_file) and "\n" not in str(error)
    assert failures > 100


def replace_one_value(content, rng, junk):
    node = content
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rng.choice(keys)
        if not isinstance(node[key], (dict, list)) or not node[key] or rng.random() < 0.1:
            node[key] = copy.deepcopy(rng.choice(junk))
            return
        node = node[key]


def test_register_is_lazy_and_repeatable(content, tmp_path):
    json_file = write(content, tmp_path / "x.json")
    entry = {"JSON": json_file, "IMAGES": str(tmp_path)}
    unused = {"JSON": "no/such.json", "IMAGES": "no/such"}
    cfg = make_cfg({"birds": entry, "unused": unused}, train=("birds",), test=("birds",))
    register_datasets(cfg)
    metadata = MetadataCatalog.get("birds")
    assert (metadata.json_file, metadata.image_root) == (json_file, str(tmp_path))
    assert metadata.evaluator_type == "lvis"
    assert metadata.get("thing_classes") is None
    assert len(DatasetCatalog.get("birds")) == 2
    assert metadata.thing_classes == ["tit", "owl", "swan"]

    content["categories"][0]["name"] = "goose"
    write(content, tmp_path / "x.json")
    register_datasets(cfg)
    DatasetCatalog.get("birds")
    assert MetadataCatalog.get("birds").thing_classes == ["tit", "owl", "goose"]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            {"JSN": "x", "IMAGES": "y"},
            "DATASETS.REGISTER.birds.JSN: no such key; the keys are JSON",
        ),
        ({"JSON": "x"}, "DATASETS.REGISTER.birds.IMAGES is None"),
        ({"JSON": "", "IMAGES": "y"}, "DATASETS.REGISTER.birds.JSON is ''"),
        ({"JSON": 5, "IMAGES": "y"}, "DATASETS.REGISTER.birds.JSON is 5"),
        ("x.json", "DATASETS.REGISTER.birds is 'x.json'"),
    ],
)
def test_malformed_entry(entry, expected):
    with pytest.raises(ValueError) as info:
        register_datasets(make_cfg({"birds": entry}))
    assert expected in str(info.value)
    assert "birds" not in DatasetCatalog


def test_missing_paths_of_used_datasets(content, tmp_path):
    json_file = write(content, tmp_path / "x.json")
    cfg = make_cfg({"birds": {"JSON": "no.json", "IMAGES": str(tmp_path)}}, train=("birds",))
    with pytest.raises(FileNotFoundError, match=r"REGISTER\.birds\.JSON: no such file: no\.json"):
        register_datasets(cfg)
    cfg = make_cfg({"birds": {"JSON": json_file, "IMAGES": "no"}}, test=("birds",))
    with pytest.raises(FileNotFoundError, match=r"REGISTER\.birds\.IMAGES: no such folder: no"):
        register_datasets(cfg)


def test_taken_and_unknown_names():
    entry = {"JSON": "x.json", "IMAGES": "y"}
    with pytest.raises(ValueError, match=r"REGISTER\.lvis_v1_val: .* choose another name"):
        register_datasets(make_cfg({"lvis_v1_val": entry}))
    cfg = make_cfg({"birds_train": entry}, test=("bird_train",))
    with pytest.raises(ValueError, match=r"DATASETS\.TEST: .*'bird_train'; .* birds_train"):
        register_datasets(cfg)


def test_builtin_lvis_without_files(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    metadata = MetadataCatalog.get("lvis_v1_val")
    if Path(metadata.json_file).exists():
        pytest.skip("LVIS is installed")
    with pytest.raises(FileNotFoundError) as info:
        register_datasets(make_cfg({}, test=("lvis_v1_val",)))
    for part in ("lvis_v1_val.json", "datasets/README.md", "DETECTRON2_DATASETS"):
        assert part in str(info.value)


def test_own_and_other_datasets():
    register_instances("birds", "x.json", "images")
    DatasetCatalog.register("by_code", lambda: [])
    assert is_own_dataset("birds")
    assert not is_own_dataset("lvis_v1_val") and not is_own_dataset("nowhere")
    cfg = make_cfg({})
    assert find_dataset(cfg, "DATASETS.TRAIN", "birds") == ("x.json", "images")
    assert find_dataset(cfg, "DATASETS.TRAIN", "by_code") is None


@pytest.mark.skipif(not COCO200.is_dir(), reason="needs ../shared/data/coco200")
def test_real_photographs():
    dicts = load_instances_json(
        str(COCO200 / "instances_train2017.json"), str(COCO200 / "train2017"), "coco200_train"
    )
    assert len(dicts) == 100 and sum(len(d["annotations"]) for d in dicts) == 739
    assert all(Path(d["file_name"]).is_file() for d in dicts)
    metadata = MetadataCatalog.get("coco200_train")
    assert len(metadata.thing_classes) == 80
    assert metadata.thing_dataset_id_to_contiguous_id[90] == 79
