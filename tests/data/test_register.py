import json
from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis import register_lvis_instances

from eql_seesaw.config import add_long_tail_config
from eql_seesaw.data.register import (
    class_metadata,
    find_dataset,
    is_own_dataset,
    register_datasets,
    register_instances,
)


def write_json(folder, class_names):
    """An annotation file with one image and one annotation."""
    json_file = folder / "x.json"
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 10, "width": 10}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(class_names, start=1)],
    }
    json_file.write_text(json.dumps(content))
    return str(json_file)


def make_cfg(register, train=(), test=()):
    cfg = get_cfg()
    add_long_tail_config(cfg)
    for name, entry in register.items():
        cfg.DATASETS.REGISTER[name] = CfgNode(entry) if isinstance(entry, dict) else entry
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = train, test
    return cfg


def test_register_is_lazy_and_repeatable(tmp_path):
    json_file = write_json(tmp_path, ["tit", "owl"])
    entry = {"JSON": json_file, "IMAGES": str(tmp_path)}
    unused = {"JSON": "no/such.json", "IMAGES": "no/such"}
    cfg = make_cfg({"birds": entry, "unused": unused}, train=("birds",), test=("birds",))
    register_datasets(cfg)
    metadata = MetadataCatalog.get("birds")
    assert (metadata.json_file, metadata.image_root) == (json_file, str(tmp_path))
    assert metadata.evaluator_type == "lvis"
    assert metadata.get("thing_classes") is None
    assert len(DatasetCatalog.get("birds")) == 1
    assert metadata.thing_classes == ["tit", "owl"]

    write_json(tmp_path, ["tit", "goose"])
    register_datasets(cfg)
    DatasetCatalog.get("birds")
    assert MetadataCatalog.get("birds").thing_classes == ["tit", "goose"]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"JSN": "x", "JSON": "x", "IMAGES": "y"}, "contains unknown field `JSN`; give {JSON:"),
        ({"JSON": "x"}, "missing required field `IMAGES`"),
        ({"JSON": "x", "IMAGES": ""}, "Expected `str` of length >= 1 - at `$.IMAGES`"),
        ("x.json", "Expected `object`, got `str`"),
    ],
)
def test_malformed_entry(entry, expected):
    with pytest.raises(ValueError) as info:
        register_datasets(make_cfg({"birds": entry}))
    assert str(info.value).startswith("DATASETS.REGISTER.birds: ") and expected in str(info.value)
    assert "birds" not in DatasetCatalog


def test_missing_paths_of_used_datasets(tmp_path):
    json_file = write_json(tmp_path, ["tit"])
    cfg = make_cfg({"birds": {"JSON": "no.json", "IMAGES": str(tmp_path)}}, train=("birds",))
    with pytest.raises(FileNotFoundError, match=r"REGISTER\.birds\.JSON: no such file: no\.json"):
        register_datasets(cfg)
    cfg = make_cfg({"birds": {"JSON": json_file, "IMAGES": "no"}}, test=("birds",))
    with pytest.raises(FileNotFoundError, match=r"REGISTER\.birds\.IMAGES: no such folder: no"):
        register_datasets(cfg)


def test_unknown_name():
    entry = {"JSON": "x.json", "IMAGES": "y"}
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


@pytest.mark.parametrize(
    ("coco_url", "is_refused"),
    [
        ("http://x/../../etc/passwd", False),  # the last two parts stay in the folder
        ("http://x/val2017/../passwd", True),
        ("http://x/val2017/..", True),
        ("http://x/val2017/1.jpg", False),
    ],
)
def test_lvis_of_detectron2_stays_in_the_image_folder(tmp_path, coco_url, is_refused):
    json_file = Path(write_json(tmp_path, ["tit"]))
    content = json.loads(json_file.read_text())
    content["images"][0]["coco_url"] = coco_url
    json_file.write_text(json.dumps(content))
    register_lvis_instances("lvis_v1_small", {}, str(json_file), f"{tmp_path}/")
    for _ in range(2):
        register_datasets(make_cfg({}, test=("lvis_v1_small",)))
    if not is_refused:
        (image,) = DatasetCatalog.get("lvis_v1_small")
        assert image["file_name"].startswith(f"{tmp_path}/")
        return
    with pytest.raises(ValueError) as info:
        DatasetCatalog.get("lvis_v1_small")
    assert str(info.value).startswith(f"{json_file}: image 1: '")
    assert str(info.value).endswith("leads out of the image folder")


def test_classes_of_a_dataset(tmp_path):
    json_file = Path(write_json(tmp_path, ["tit", "owl"]))
    content = json.loads(json_file.read_text())
    content["categories"][0]["id"] = 9
    json_file.write_text(json.dumps(content))
    register_instances("birds", str(json_file), str(tmp_path))
    expected = {"thing_classes": ["owl", "tit"], "category_ids": [2, 9]}
    assert class_metadata("birds") == expected
    content["annotations"][0]["category_id"] = 9
    json_file.write_text(json.dumps(content))
    DatasetCatalog.get("birds")
    json_file.unlink()
    assert class_metadata("birds") == expected  # from the metadata

    lvis = class_metadata("lvis_v1_train")  # without its annotation file
    assert len(lvis["thing_classes"]) == 1203 and lvis["category_ids"][:2] == [1, 2]
    assert class_metadata("coco_2017_train")["category_ids"][-1] == 90
    DatasetCatalog.register("by_code", lambda: pytest.fail("loaded"))
    register_instances("missing", "no/such.json", "no/such")
    assert class_metadata("by_code") is class_metadata("missing") is None
    json_file.write_text('{"categories": [{"id": "2"}]}')
    register_instances("birds", str(json_file), str(tmp_path))
    with pytest.raises(ValueError, match='x.json: categories.0.: id is "2": Expected `int`'):
        class_metadata("birds")
