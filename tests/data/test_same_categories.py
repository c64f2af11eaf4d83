import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from eql_seesaw.data.register import register_instances
from eql_seesaw.data.same_categories import check_same_categories


def register(name, folder, class_names):
    categories = [{"id": 10 - i, "name": n} for i, n in enumerate(reversed(class_names))]
    json_file = folder / f"{name}.json"
    json_file.write_text(json.dumps({"categories": categories}))
    register_instances(name, str(json_file), str(folder))


def test_own_datasets(tmp_path, monkeypatch):
    register("train", tmp_path, ["tit", "owl", "swan"])
    register("val", tmp_path, ["tit", "owl", "swan"])
    register("swapped", tmp_path, ["tit", "swan", "owl"])
    register("fewer", tmp_path, ["tit", "owl"])
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: pytest.fail("loaded"))
    check_same_categories(["train"], ["val", "train"])
    message = "class 1 is 'swan' in dataset 'swapped', but 'owl' in 'train' of DATASETS.TRAIN"
    with pytest.raises(ValueError, match=f"^DATASETS.TEST: {message}$"):
        check_same_categories(["train"], ["val", "swapped"])
    message = "dataset 'fewer' has 2 classes, but 'train' in DATASETS.TRAIN has 3"
    with pytest.raises(ValueError, match=f"^DATASETS.TEST: {message}$"):
        check_same_categories(["train"], ["fewer"])


def test_built_in_datasets_without_their_files():
    check_same_categories(["lvis_v1_train"], ["lvis_v1_val"])
    with pytest.raises(ValueError, match="'lvis_v0.5_val' has 1230 classes, .* has 1203"):
        check_same_categories(["lvis_v1_train"], ["lvis_v1_val", "lvis_v0.5_val"])


def test_what_is_unknown_is_left_out(tmp_path):
    register("val", tmp_path, ["tit", "owl"])
    DatasetCatalog.register("by_code", lambda: [])
    check_same_categories(["by_code"], ["val"])
    check_same_categories(["val"], ["by_code"])
    check_same_categories([], ["val"])
    check_same_categories(["val"], [])
    MetadataCatalog.get("by_code").set(thing_classes=["tit", "swan"])
    with pytest.raises(ValueError, match="class 1 is 'swan' in dataset 'by_code'"):
        check_same_categories(["val"], ["by_code"])


def test_a_renamed_class_among_many_is_a_warning(tmp_path, caplog):
    names = [f"bird_{i:03}" for i in range(200)]
    register("many", tmp_path, names)
    register("two_renamed", tmp_path, ["tit", "owl", *names[2:]])
    register("three_renamed", tmp_path, ["tit", "owl", "swan", *names[3:]])
    check_same_categories(["many"], ["two_renamed"])
    assert "class 0 is 'tit' in dataset 'two_renamed'" in caplog.text
    with pytest.raises(ValueError, match="'three_renamed'"):
        check_same_categories(["many"], ["three_renamed"])
