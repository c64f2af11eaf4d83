import json
import os

import numpy as np
import pytest

from eql_seesaw.data.class_statistics import (
    ClassStatistics,
    count_classes,
    read_class_statistics,
    summed_statistics,
    write_class_statistics,
)


def image(*classes, crowd=()):
    annotations = [{"category_id": c} for c in classes]
    annotations += [{"category_id": c, "iscrowd": 1} for c in crowd]
    return {"image_id": 5, "annotations": annotations}


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


def test_summed():
    parts = [count_classes([image(0), image(1)], 3), count_classes([image(1, 1)], 3)]
    assert_equal(summed_statistics(parts), [1, 2, 0], [1, 3, 0], 3)


def test_written_file_is_read_back(tmp_path):
    counts = np.array([5, 0, 200])
    json_file = str(tmp_path / "given.json")
    write_class_statistics(ClassStatistics(counts, counts * 2, 205), json_file)
    assert os.listdir(tmp_path) == ["given.json"]
    assert_equal(read_class_statistics(json_file, 3), [5, 0, 200], [10, 0, 400], 205)
    with pytest.raises(ValueError, match="given.json .* 3 classes, .*NUM_CLASSES is 4"):
        read_class_statistics(json_file, 4)
    with pytest.raises(FileNotFoundError, match="no such file: no.json"):
        read_class_statistics("no.json", 4)
    assert read_class_statistics(json_file, 3).fractal_dimensions is None
    dimensions = np.array([1.0, 1.25, 2.0])
    write_class_statistics(ClassStatistics(counts, counts, 205, dimensions), json_file)
    assert read_class_statistics(json_file, 3).fractal_dimensions.tolist() == [1.0, 1.25, 2.0]


def test_file_of_another_dataset(tmp_path):
    counts = np.array([5, 0, 200])
    statistics = ClassStatistics(counts, counts, 205)
    json_file = str(tmp_path / "given.json")
    write_class_statistics(statistics, json_file, ["tit", "owl", "swan"])
    train_classes = {"unknown": None, "birds": ["tit", "owl", "swan"]}
    assert_equal(read_class_statistics(json_file, 3, train_classes), [5, 0, 200], [5, 0, 200], 205)
    train_classes["other_birds"] = ["tit", "swan", "owl"]
    message = r"another dataset: class 1 is 'owl' there and 'swan' in 'other_birds'$"
    with pytest.raises(ValueError, match=message):
        read_class_statistics(json_file, 3, train_classes)
    write_class_statistics(statistics, json_file)  # without names
    assert read_class_statistics(json_file, 3, train_classes).num_images == 205
    write_class_statistics(statistics, json_file, ["tit"])
    with pytest.raises(ValueError, match="thing_classes is not a list of names, one per class"):
        read_class_statistics(json_file, 3)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"image_counts": None}, "Expected `array`, got `null` - at `$.image_counts`"),
        ({"image_counts": [1.5, 2]}, "Expected `int`, got `float` - at `$.image_counts[0]`"),
        ({"image_counts": [-1, 2]}, "Expected `int` >= 0 - at `$.image_counts[0]`"),
        ({"thing_classes": 5}, "`$.thing_classes`"),
        ({"instance_counts": [1]}, "differ in length"),
        ({"fractal_dimensions": [1.5]}, "fractal_dimensions is not a list of numbers, one per"),
        ({"fractal_dimensions": [1.5, 3]}, "`$.fractal_dimensions[1]`"),
        ({"num_images": "9"}, "`$.num_images`"),
        ({"num_images": 0}, "`$.num_images`"),
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
    with pytest.raises(ValueError, match="x.json: "):
        read_class_statistics(str(json_file), 2)
