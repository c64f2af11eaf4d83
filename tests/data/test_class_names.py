import json
import os

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from eql_seesaw.data import class_names as class_names_module
from eql_seesaw.data.class_names import category_names, class_names, first_difference
from eql_seesaw.data.class_statistics_cache import file_stamp, write_cache
from eql_seesaw.data.register import register_instances


@pytest.fixture
def json_file(tmp_path):
    path = tmp_path / "birds.json"
    write(path, {9: "owl", 2: "tit"})
    register_instances("birds", str(path), str(tmp_path))
    return path


def write(path, names):
    path.write_text(json.dumps({"categories": [{"id": i, "name": n} for i, n in names.items()]}))


def test_of_an_annotation_file_in_ascending_order_of_id(json_file):
    assert class_names("birds") == ["tit", "owl"]
    assert list(category_names(str(json_file)).items()) == [(2, "tit"), (9, "owl")]


def test_a_file_is_read_once_until_it_changes(json_file, monkeypatch):
    reads = []
    read = class_names_module.read_annotation_file
    monkeypatch.setattr(
        class_names_module, "read_annotation_file", lambda path: reads.append(path) or read(path)
    )
    for _ in range(2):
        assert class_names("birds") == ["tit", "owl"]
    assert reads == [str(json_file)]
    write(json_file, {1: "swan"})
    assert class_names("birds") == ["swan"]


def test_the_cache_of_the_class_statistics_saves_reading(json_file, monkeypatch):
    monkeypatch.setattr(class_names_module, "category_names", lambda path: pytest.fail("read"))
    stamp = file_stamp(str(json_file))
    write_cache(str(json_file), stamp, {"thing_classes": ["tit", "owl"]})
    assert class_names("birds") == ["tit", "owl"]


def test_a_stale_cache_is_not_believed(json_file):
    stamp = file_stamp(str(json_file))
    write_cache(str(json_file), stamp, {"thing_classes": ["goose", "duck"]})
    os.utime(json_file, ns=(1, 1))
    assert class_names("birds") == ["tit", "owl"]


def test_metadata_comes_first():
    assert len(class_names("lvis_v1_train")) == 1203  # without its annotation file
    MetadataCatalog.get("by_code").set(thing_classes=("tit", "owl"))
    assert class_names("by_code") == ["tit", "owl"]


def test_unknown_before_loading():
    DatasetCatalog.register("by_code", lambda: pytest.fail("loaded"))
    register_instances("missing", "no/such.json", "no/such")
    assert class_names("by_code") is None
    assert class_names("missing") is None


def test_malformed_file(json_file):
    write(json_file, {1: "owl", 2: 5})
    with pytest.raises(ValueError, match="birds.json: category 2: name is 5"):
        class_names("birds")


def test_first_difference():
    assert first_difference(["a", "b"], ["a", "b"]) is None
    assert first_difference(["a", "b", "c"], ["a", "x", "y"]) == 1
