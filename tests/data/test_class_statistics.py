import json
import os

import numpy as np
import pytest

from eql_seesaw.data.class_statistics import (
    ClassStatistics,
    count_classes,
    read_class_statistics,
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


@pytest.mark.parametrize("class_id", [-1, 3])
def test_class_id_outside(class_id):
    with pytest.raises(ValueError, match=f"image 5 has class id {class_id}, .*NUM_CLASSES"):
        count_classes([image(0), image(class_id)], 3)


def test_written_file_is_read_back(tmp_path):
    counts = np.array([5, 0, 200])
    json_file = str(tmp_path / "given.json")
    write_class_statistics(ClassStatistics(counts, counts * 2, 205), json_file)
    assert os.listdir(tmp_path) == ["given.json"]
    statistics, classes = read_class_statistics(json_file, 3)
    assert_equal(statistics, [5, 0, 200], [10, 0, 400], 205)
    assert classes is statistics.fractal_dimensions is None
    with pytest.raises(ValueError, match="given.json: image_counts .* 3 classes, .*_CLASSES is 4"):
        read_class_statistics(json_file, 4)
    with pytest.raises(FileNotFoundError, match="No such file or directory: 'no.json'"):
        read_class_statistics("no.json", 4)
    dimensions, names = np.array([1.0, 1.25, 2.0]), ["tit", "owl", "swan"]
    write_class_statistics(ClassStatistics(counts, counts, 205, dimensions), json_file, names)
    statistics, classes = read_class_statistics(json_file, 3)
    assert statistics.fractal_dimensions.tolist() == [1.0, 1.25, 2.0] and classes == names


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"image_counts": [1.5, 2]}, "Expected `int`, got `float` - at `$.image_counts[0]`"),
        ({"image_counts": [-1, 2]}, "Expected `int` >= 0 - at `$.image_counts[0]`"),
        ({"thing_classes": ["tit"]}, "thing_classes are those of 1 classes"),
        ({"instance_counts": [1]}, "instance_counts are those of 1 classes"),
        ({"fractal_dimensions": [1.5]}, "fractal_dimensions are those of 1 classes"),
        ({"fractal_dimensions": [1.5, 3]}, "`$.fractal_dimensions[1]`"),
        ({"num_images": "9"}, "`$.num_images`"),
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
