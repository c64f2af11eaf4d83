import copy
import gc
import json
import math
import pickle
import random

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.structures import BoxMode

from eql_seesaw.data.annotated_images import JoinedImages, read_annotated_images
from eql_seesaw.data.class_statistics import annotation_columns

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


def test_junk_is_one_line_or_every_image_can_be_decoded(many_kinds, tmp_path):
    rng = random.Random(0)
    failures = 0
    for _ in range(150):
        broken = copy.deepcopy(many_kinds)
        replace_one_value(broken, rng)
        json_file = write(broken, tmp_path / "x.json")
        try:
            list(read_annotated_images(json_file, "images"))
        except ValueError as error:
            failures += 1
            assert str(error).startswith(json_file) and "\n" not in str(error)
    assert 50 < failures < 145


def standard_format(content, image_root):
    """The slow form: Detectron2's format, made of what json reads."""
    contiguous_ids = {k: i for i, k in enumerate(sorted(c["id"] for c in content["categories"]))}
    images = []
    for image in sorted(content["images"], key=lambda image: image["id"]):
        name = image.get("file_name") or "/".join(image["coco_url"].split("/")[-2:])
        record = {key: image[key] for key in ("height", "width")}
        record |= {"file_name": f"{image_root}/{name}", "image_id": image["id"], "annotations": []}
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            if key in image:
                record[key] = [contiguous_ids[k] for k in image[key]]
        for annotation in content["annotations"]:
            if annotation["image_id"] == image["id"]:
                wanted = ("bbox", "iscrowd", "segmentation")
                instance = {k: annotation[k] for k in wanted if k in annotation}
                if not instance.get("iscrowd", True):
                    del instance["iscrowd"]
                if not instance.get("segmentation", True):
                    del instance["segmentation"]
                mask, size = instance.get("segmentation"), (image["height"], image["width"])
                if isinstance(mask, dict) and isinstance(mask["counts"], list):
                    instance["segmentation"] = mask_util.frPyObjects(mask, *size)
                instance["category_id"] = contiguous_ids[annotation["category_id"]]
                record["annotations"].append({**instance, "bbox_mode": BoxMode.XYWH_ABS})
        images.append(record)
    return images


@pytest.fixture
def many_kinds(content):
    """Images out of order, one without annotations, and annotations of all kinds."""
    content["images"] += [{"id": 5, "file_name": "é\\n.jpg", "height": 9, "width": 8}]
    box = [1, 2.5, -3.25, 0.1]
    rle = {"size": [20, 30], "counts": "abc"}
    numbers = [1, 2.5, -0.0, 1e3, 0.1, 123.4567890123456789]
    content["annotations"] += [
        {"id": 1, "image_id": 7, "category_id": 5, "bbox": box, "segmentation": None},
        {"id": 2, "image_id": 3, "category_id": 2, "bbox": box, "iscrowd": 0, "note": [{}]},
        {"id": 3, "image_id": 7, "category_id": 5, "bbox": box, "segmentation": rle},
        {"id": 4, "image_id": 3, "category_id": 2, "bbox": box, "note": "]},{"},
    ]
    content["annotations"][0]["segmentation"] = [numbers, [1, 2, 3, 4, 5, 6]]
    return content


@pytest.mark.parametrize("indent", [None, 2])
def test_same_as_the_slow_form(many_kinds, tmp_path, indent):
    json_file = write(json.dumps(many_kinds, indent=indent), tmp_path / "x.json")
    images = read_annotated_images(json_file, "images")
    expected = standard_format(many_kinds, "images")
    assert list(images) == expected
    found, wanted = images.columns, annotation_columns(expected)
    assert all(map(np.array_equal, found[:3], wanted[:3]))
    assert found.num_images == wanted.num_images == 3
    assert images.is_wide.tolist() == [False, False, True]
    assert images.class_names == ["tit", "owl", "swan"]
    assert images.contiguous_ids == {2: 0, 5: 1, 90: 2}
    # Integers stay integers.
    assert pickle.dumps(images[0]["annotations"][0]["bbox"]) == pickle.dumps([0, 0, 1, 4])
    with pytest.raises(IndexError):
        images[3]


@pytest.mark.parametrize(
    ("change", "same_as"),
    [
        ({"iscrowd": True}, {"iscrowd": 1}),
        ({"iscrowd": None}, {"iscrowd": 0}),
        ({"iscrowd": math.nan, "note": math.inf}, {"iscrowd": 0}),
        ({"note": "\ud800"}, {}),
        ({"note": 10**400}, {}),
        ({"id": 13.0, "image_id": 7.0}, {}),
        (
            {"bbox": None, "segmentation": {"size": [20, 30], "counts": [21, 2, 577]}},
            {
                "bbox": [1.0, 1.0, 1.0, 2.0],
                "segmentation": {"size": [20, 30], "counts": [21, 2, 577]},
            },
        ),
    ],
)
def test_unusual_values(many_kinds, tmp_path, change, same_as):
    usual = copy.deepcopy(many_kinds)
    usual["annotations"][2].update(same_as)
    many_kinds["annotations"][2].update(change)
    images = read_annotated_images(write(many_kinds, tmp_path / "x.json"), "images")
    expected = standard_format(usual, "images")
    assert list(images) == expected
    assert np.array_equal(images.columns.is_crowd, annotation_columns(expected).is_crowd)


def test_what_is_left_out(many_kinds, tmp_path):
    """Images whose id comes again, unknown references, and negatives that are no categories."""
    expected = read_annotated_images(write(many_kinds, tmp_path / "x.json"), "images")
    images, annotations = many_kinds["images"], many_kinds["annotations"]
    images[0]["neg_category_ids"] += [77]
    images.insert(0, {"id": 7, "file_name": "other.jpg", "height": 1, "width": 1})
    box = {"bbox": [1, 2, 3, 4], "segmentation": [[1, 2, 3, 4, 5, 6]]}
    annotations.insert(0, {"id": 90, "image_id": 77, "category_id": 5, **box})
    annotations.insert(3, {"id": 91, "image_id": 7, "category_id": 77, **box})
    found = read_annotated_images(write(many_kinds, tmp_path / "x.json"), "images")
    assert list(found) == list(expected)


def test_with_annotations(many_kinds, tmp_path):
    kept = [a for a in many_kinds["annotations"] if a["id"] not in (2, 4)]
    many_kinds["annotations"] = kept
    images = read_annotated_images(write(many_kinds, tmp_path / "x.json"), "images")
    # Image 3 has but a crowd, image 5 nothing.
    selected = images.with_annotations()
    assert [image["image_id"] for image in selected] == [7]
    assert list(selected) == [images[2]] and selected.is_wide.tolist() == [True]
    wanted = annotation_columns(list(selected))
    assert all(map(np.array_equal, selected.columns[:3], wanted[:3]))
    assert selected.columns.num_images == 1


def test_joined(many_kinds, tmp_path):
    images = read_annotated_images(write(many_kinds, tmp_path / "x.json"), "images")
    joined = JoinedImages([images, images.with_annotations(), images])
    expected = [*images, *images.with_annotations(), *images]
    assert list(joined) == expected and len(joined) == len(expected)
    wanted = annotation_columns(expected)
    assert all(map(np.array_equal, joined.columns[:3], wanted[:3]))
    assert joined.columns.num_images == len(expected)
    assert joined.is_wide.tolist() == [image["width"] > image["height"] for image in expected]


def test_the_garbage_collector_goes_on(content, tmp_path):
    read_annotated_images(write(content, tmp_path / "x.json"), "images")
    assert gc.isenabled()
    with pytest.raises(ValueError):
        read_annotated_images(write("{", tmp_path / "x.json"), "images")
    assert gc.isenabled()
