import copy
import json
import pickle
import random
from multiprocessing import reduction

import numpy as np
import pytest

from eql_seesaw.data.annotation_columns import annotation_columns
from eql_seesaw.data.annotation_file import read_annotation_file
from eql_seesaw.data.instances_json import (
    _load_file,
    _serialize_file,
    load_instances_json,
    read_instances_json,
)
from eql_seesaw.data.serialized_instances import SerializedInstances

from .junk import replace_one_value
from .test_instances_json import CONTENT

NUMBERS_AS_WRITTEN = [1, 2.5, -0.0, 1e3, 0.1, 123.4567890123456789]


@pytest.fixture
def content():
    """Images out of order, one without annotations, and annotations of all kinds."""
    content = copy.deepcopy(CONTENT)
    content["images"] += [{"id": 5, "file_name": "é\\n.jpg", "height": 9, "width": 8}]
    box = [1, 2.5, -3.25, 0.1]
    content["annotations"] += [
        {"id": 1, "image_id": 7, "category_id": 5, "bbox": box, "segmentation": None},
        {"id": 2, "image_id": 3, "category_id": 2, "bbox": box, "iscrowd": 0, "area": [{}]},
        {
            "id": 3,
            "image_id": 3,
            "category_id": 2,
            "bbox": box,
            "segmentation": [NUMBERS_AS_WRITTEN, [1, 2, 3, 4, 5, "x"]],
        },
        {
            "id": 4,
            "image_id": 7,
            "category_id": 5,
            "bbox": box,
            "segmentation": {"size": [20, 30], "counts": "abc"},
        },
    ]
    return content


def read(content, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path), read_instances_json(str(path), "images")


def test_same_as_the_checks_one_by_one(content, tmp_path):
    json_file, dataset = read(content, tmp_path)
    assert isinstance(dataset, SerializedInstances)
    expected, _ = _load_file(read_annotation_file(json_file), json_file, "images")
    assert list(dataset) == expected == load_instances_json(json_file, "images")
    # Integers stay integers.
    assert pickle.dumps(dataset[0]["annotations"][0]["bbox"]) == pickle.dumps([0, 0, 1, 4])
    found, wanted = dataset.columns, annotation_columns(expected)
    assert all(map(np.array_equal, found[:3], wanted[:3]))
    assert found.num_images == wanted.num_images == 3
    assert dataset.is_wide.tolist() == [False, False, True]


def test_images_are_decoded_anew(content, tmp_path):
    _, dataset = read(content, tmp_path)
    dataset[0]["annotations"].clear()
    assert len(dataset[0]["annotations"]) == 3
    assert dataset[-1] == dataset[2]
    with pytest.raises(IndexError):
        dataset[3]


def test_with_annotations(content, tmp_path):
    content["annotations"] = [x for x in content["annotations"] if x["id"] not in (2, 3)]
    _, dataset = read(content, tmp_path)
    # Image 3 has but a crowd, image 5 nothing.
    selected = dataset.with_annotations()
    assert [image["image_id"] for image in selected] == [7]
    assert list(selected) == [dataset[2]] and selected.is_wide.tolist() == [True]
    wanted = annotation_columns(list(selected))
    assert all(map(np.array_equal, selected.columns[:3], wanted[:3]))
    assert selected.columns.num_images == 1
    assert selected.with_annotations() is selected


@pytest.mark.parametrize(
    "change",
    [
        {"iscrowd": True},
        {"iscrowd": None},
        {"segmentation": [[1, 2, 3, 4, 5, float("nan")]]},
        {"bbox": [1, 2, 3, 10**8], "id": 2**80},
    ],
)
def test_unusual_values_are_loaded_as_they_are(content, tmp_path, change):
    content["annotations"][2].update(change)
    json_file, dataset = read(content, tmp_path)
    expected, _ = _load_file(read_annotation_file(json_file), json_file, "images")
    assert repr(list(dataset)) == repr(expected)


def test_junk_is_never_taken_for_a_good_file(content, tmp_path):
    rng = random.Random(0)
    serialized = 0
    for _ in range(400):
        broken = copy.deepcopy(content)
        replace_one_value(broken, rng)
        text = json.dumps(broken)
        found = _serialize_file(text.encode(), "images")
        if found is None:
            continue
        serialized += 1
        expected, categories = _load_file(json.loads(text), "x.json", "images")
        assert repr(list(found[0])) == repr(expected) and found[1] == categories
    assert 20 < serialized < 380


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"images": [5]}'])
def test_no_annotation_file(tmp_path, text):
    with pytest.raises(ValueError, match="x.json: ") as info:
        read(text, tmp_path)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("key", ["name", "bbox"])
def test_text_that_is_not_utf_8(content, tmp_path, key):
    text = (
        json.dumps(content)
        .encode()
        .replace(b'"%b": ' % key.encode(), b'"%b": "\xe9", "x": ' % key.encode())
    )
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(ValueError, match="x.json: not JSON, or not complete"):
        read_instances_json(str(tmp_path / "x.json"), "images")


def test_spawned_workers_share_the_text(content, tmp_path):
    _, dataset = read(content, tmp_path)
    sent = reduction.ForkingPickler.dumps(dataset)
    assert b"folder/a.jpg" not in bytes(sent)
    assert list(pickle.loads(sent)) == list(dataset)
