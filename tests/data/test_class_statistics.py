import json
import logging
import os

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from eql_seesaw.data import class_statistics
from eql_seesaw.data.class_statistics import (
    ClassStatistics,
    count_classes,
    get_class_statistics,
    read_class_statistics,
    write_class_statistics,
)
from eql_seesaw.data.class_statistics_cache import CACHE_SUFFIX
from eql_seesaw.data.register import register_instances


@pytest.fixture
def new_process():
    """Forgets what this process has read."""
    return class_statistics._get_class_statistics.cache_clear


def image(*classes, crowd=()):
    annotations = [{"category_id": c} for c in classes]
    annotations += [{"category_id": c, "iscrowd": 1} for c in crowd]
    return {"image_id": 5, "annotations": annotations}


def register(name, classes_of_images, tmp_path, names=("tit", "owl", "swan")):
    """Register a dataset whose images hold the given classes; returns the annotation file."""
    annotations = [
        {"image_id": image_id, "category_id": c + 1, "bbox": [0, 0, 1, 1]}
        for image_id, classes in enumerate(classes_of_images)
        for c in classes
    ]
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": 4, "width": 4}
            for i in range(len(classes_of_images))
        ],
        "annotations": [{"id": i, **a} for i, a in enumerate(annotations)],
        "categories": [{"id": i + 1, "name": n} for i, n in enumerate(names)],
    }
    json_file = tmp_path / f"{name}.json"
    json_file.write_text(json.dumps(content))
    register_instances(name, str(json_file), str(tmp_path))
    return json_file


def assert_equal(statistics, image_counts, instance_counts, num_images):
    assert statistics.image_counts.tolist() == image_counts
    assert statistics.instance_counts.tolist() == instance_counts
    assert statistics.num_images == num_images
    assert statistics.image_counts.dtype == statistics.instance_counts.dtype == np.int64


def test_counts_images_once_and_leaves_crowds_out():
    dicts = [image(0, 0, 2), image(2, crowd=(1,)), image(), image(crowd=(0,)), {"image_id": 9}]
    assert_equal(count_classes(dicts, 4), [1, 0, 2, 0], [2, 0, 2, 0], 2)
    assert_equal(count_classes([], 2), [0, 0], [0, 0], 0)


def test_counts_agree_with_a_slow_count():
    rng = np.random.default_rng(0)
    dicts = [image(*rng.integers(0, 20, rng.integers(0, 9)).tolist()) for _ in range(200)]
    classes = [[a["category_id"] for a in d["annotations"]] for d in dicts]
    assert_equal(
        count_classes(dicts, 20),
        [sum(k in c for c in classes) for k in range(20)],
        [sum(c.count(k) for c in classes) for k in range(20)],
        sum(bool(c) for c in classes),
    )


@pytest.mark.parametrize("class_id", [-1, 3])
def test_class_id_outside(class_id):
    with pytest.raises(ValueError, match=f"image 5 has class id {class_id}, .*NUM_CLASSES"):
        count_classes([image(0), image(class_id)], 3)


def test_groups_follow_lvis():
    counts = np.array([0, 1, 10, 11, 100, 101])
    assert ClassStatistics(counts, counts, 200).groups == ["r", "r", "r", "c", "c", "f"]


def test_counts_and_caches(tmp_path, monkeypatch, caplog, new_process):
    json_file = register("birds", [[0, 0, 1], [0], []], tmp_path)
    with caplog.at_level(logging.INFO, "eql_seesaw"):
        assert_equal(get_class_statistics(["birds"], 3), [2, 1, 0], [3, 1, 0], 2)
    assert "of birds: 3 rare, 0 common, 0 frequent" in caplog.text
    assert sorted(os.listdir(tmp_path)) == ["birds.json", "birds.json" + CACHE_SUFFIX]

    new_process()
    with monkeypatch.context() as patch:
        patch.setitem(DatasetCatalog.data, "birds", lambda: pytest.fail("counted twice"))
        assert_equal(get_class_statistics(["birds"], 3), [2, 1, 0], [3, 1, 0], 2)
    assert_equal(read_class_statistics(str(json_file) + CACHE_SUFFIX, 3), [2, 1, 0], [3, 1, 0], 2)


def test_stale_or_broken_cache_is_counted_again(tmp_path, new_process):
    json_file = register("birds", [[0]], tmp_path)
    get_class_statistics(["birds"], 3)
    register("birds", [[2]], tmp_path)  # the same size
    os.utime(json_file, ns=(1, 1))
    assert_equal(get_class_statistics(["birds"], 3), [0, 0, 1], [0, 0, 1], 1)
    cache = tmp_path / ("birds.json" + CACHE_SUFFIX)
    fresh = json.loads(cache.read_text())
    for broken in (
        "",
        "[]",
        json.dumps({**fresh, "thing_classes": 5}),
        json.dumps({**fresh, "num_images": 0}),
    ):
        cache.write_text(broken)
        new_process()
        assert_equal(get_class_statistics(["birds"], 3), [0, 0, 1], [0, 0, 1], 1)
        assert json.loads(cache.read_text()) == fresh


def test_a_process_counts_and_logs_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)  # no cache file
    json_file = register("counted_once", [[0], [0, 1]], tmp_path)
    loads = []
    load = class_statistics.load_dataset
    monkeypatch.setattr(
        class_statistics, "load_dataset", lambda name: loads.append(name) or load(name)
    )
    get_class_statistics(["counted_once"], 3)  # logging is not set up yet
    with caplog.at_level(logging.INFO, "eql_seesaw"):
        for _ in range(3):
            assert_equal(get_class_statistics(["counted_once"], 3), [2, 1, 0], [2, 1, 0], 2)
            register_instances("counted_once", str(json_file), "elsewhere")
    assert loads == ["counted_once"]
    assert caplog.text.count("Class statistics of counted_once") == 1

    register("counted_once", [[0], [0, 1], [2]], tmp_path)
    assert_equal(get_class_statistics(["counted_once"], 3), [2, 1, 1], [2, 1, 1], 3)


def test_datasets_by_code_are_counted_again_when_registered_anew():
    for classes in ([0], [1]):
        DatasetCatalog.register("by_code", lambda classes=classes: [image(*classes)])
        statistics = get_class_statistics(["by_code"], 2)
        assert np.flatnonzero(statistics.image_counts).tolist() == classes
        DatasetCatalog.remove("by_code")


def test_read_only_folder(tmp_path):
    register("birds", [[0]], tmp_path)
    tmp_path.chmod(0o555)
    try:
        assert_equal(get_class_statistics(["birds"], 3), [1, 0, 0], [1, 0, 0], 1)
        assert os.listdir(tmp_path) == ["birds.json"]
    finally:
        tmp_path.chmod(0o755)


def test_only_the_main_process_writes(tmp_path, monkeypatch):
    register("birds", [[0]], tmp_path)
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)
    get_class_statistics(["birds"], 3)
    assert os.listdir(tmp_path) == ["birds.json"]


def test_datasets_are_summed_and_must_agree(tmp_path):
    register("a", [[0], [1]], tmp_path)
    register("b", [[1, 1]], tmp_path)
    assert_equal(get_class_statistics(["a", "b"], 3), [1, 2, 0], [1, 3, 0], 3)
    register("c", [[1]], tmp_path, names=("tit", "swan", "owl"))
    for _ in range(2):  # counted, then from the cache files
        with pytest.raises(ValueError, match="'b' and 'c' have different .* class 1 is 'owl'"):
            get_class_statistics(["a", "b", "c"], 3)


def test_wrong_number_of_classes(tmp_path):
    register("birds", [[0]], tmp_path)
    for num_classes in (2, 80):
        message = f"NUM_CLASSES is {num_classes}, but dataset 'birds' has 3 .*NUM_CLASSES to 3"
        with pytest.raises(ValueError, match=message):
            get_class_statistics(["birds"], num_classes)
    get_class_statistics(["birds"], 3)
    with pytest.raises(ValueError, match="NUM_CLASSES is 80, but dataset 'birds' has 3"):
        get_class_statistics(["birds"], 80)  # from the cache
    with pytest.raises(ValueError, match="NUM_CLASSES is 80, but dataset 'lvis_v1_train' has 1203"):
        get_class_statistics(["lvis_v1_train"], 80)  # without its annotation file


def test_nothing_to_count():
    with pytest.raises(ValueError, match="DATASETS.TRAIN is empty"):
        get_class_statistics([], 3)
    DatasetCatalog.register("empty", lambda: [image(), image(crowd=(0,))])
    with pytest.raises(ValueError, match="'empty' has no annotations"):
        get_class_statistics(["empty"], 3)
    DatasetCatalog.register("nameless", lambda: [image(3)])
    with pytest.raises(ValueError, match="dataset 'nameless': image 5 has class id 3"):
        get_class_statistics(["nameless"], 3)


def test_given_file_wins(tmp_path):
    counts = np.array([5, 0, 200])
    json_file = tmp_path / "given.json"
    write_class_statistics(ClassStatistics(counts, counts * 2, 205), str(json_file))
    assert os.listdir(tmp_path) == ["given.json"]
    statistics = get_class_statistics(["nowhere"], 3, str(json_file))
    assert_equal(statistics, [5, 0, 200], [10, 0, 400], 205)
    with pytest.raises(ValueError, match="CLASS_STATISTICS: .* 3 classes, .*NUM_CLASSES is 4"):
        get_class_statistics([], 4, str(json_file))
    with pytest.raises(FileNotFoundError, match="CLASS_STATISTICS: no such file: no.json"):
        get_class_statistics([], 4, "no.json")


def test_given_file_of_another_dataset(tmp_path, monkeypatch):
    counts = np.array([5, 0, 200])
    statistics = ClassStatistics(counts, counts, 205)
    json_file = str(tmp_path / "given.json")
    register("birds", [[0]], tmp_path)
    register("other_birds", [[0]], tmp_path, names=("tit", "swan", "owl"))
    monkeypatch.setattr(class_statistics, "load_dataset", lambda name: pytest.fail("loaded"))
    write_class_statistics(statistics, json_file, ["tit", "owl", "swan"])
    assert_equal(get_class_statistics(["birds"], 3, json_file), [5, 0, 200], [5, 0, 200], 205)
    message = r"another dataset: class 1 is 'owl' there and 'swan' in 'other_birds'$"
    with pytest.raises(ValueError, match=message):
        get_class_statistics(["other_birds"], 3, json_file)
    write_class_statistics(statistics, json_file)  # without names
    assert get_class_statistics(["other_birds"], 3, json_file).num_images == 205
    write_class_statistics(statistics, json_file, ["tit"])
    with pytest.raises(ValueError, match="thing_classes is not a list of names, one per class"):
        get_class_statistics(["birds"], 3, json_file)


def test_given_file_does_not_switch_off_the_checks_of_the_datasets(tmp_path):
    counts = np.array([5, 0, 200, 7])
    json_file = str(tmp_path / "given.json")
    write_class_statistics(ClassStatistics(counts, counts, 300), json_file)
    register("birds", [[0]], tmp_path)
    with pytest.raises(ValueError, match="NUM_CLASSES is 4, but dataset 'birds' has 3"):
        get_class_statistics(["birds"], 4, json_file)
    with pytest.raises(ValueError, match="NUM_CLASSES is 4, but dataset 'lvis_v1_train' has 1203"):
        get_class_statistics(["lvis_v1_train"], 4, json_file)
    write_class_statistics(ClassStatistics(counts[:3], counts[:3], 300), json_file)
    register("other_birds", [[0]], tmp_path, names=("tit", "swan", "owl"))
    with pytest.raises(ValueError, match="'birds' and 'other_birds' have different categories"):
        get_class_statistics(["birds", "other_birds"], 3, json_file)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"image_counts": None}, "image_counts is not a list"),
        ({"image_counts": [1.5, 2]}, "image_counts is not a list of integers"),
        ({"image_counts": [-1, 2]}, "image_counts is not a list of integers"),
        ({"instance_counts": [1]}, "differ in length"),
        ({"num_images": "9"}, "num_images is '9'"),
        ({"num_images": 1}, "num_images is 1, expected"),
    ],
)
def test_malformed_file(tmp_path, change, expected):
    content = {"image_counts": [1, 2], "instance_counts": [1, 2], "num_images": 3, **change}
    json_file = tmp_path / "x.json"
    json_file.write_text(json.dumps(content))
    with pytest.raises(ValueError) as info:
        read_class_statistics(str(json_file), 2)
    assert expected in str(info.value) and str(json_file) in str(info.value)
    json_file.write_text(json_file.read_text()[:-5])
    with pytest.raises(ValueError, match="not JSON, or not complete"):
        read_class_statistics(str(json_file), 2)


def test_nothing_half_written(tmp_path, monkeypatch):
    json_file = tmp_path / "x.json"
    json_file.write_text("before")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_class_statistics(ClassStatistics(np.ones(1, int), np.ones(1, int), 1), str(json_file))
    assert os.listdir(tmp_path) == ["x.json"] and json_file.read_text() == "before"
