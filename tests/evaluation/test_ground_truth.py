import copy
import json
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog

from eql_seesaw.data.annotated_images import read_annotated_images
from eql_seesaw.data.register import register_instances
from eql_seesaw.evaluation.ground_truth import load_ground_truth
from eql_seesaw.evaluation.ground_truth import test_images as images_to_test

SQUARE = [[10.0, 10.0, 20.0, 10.0, 20.0, 20.0, 10.0, 20.0]]


def coco_dataset():
    """COCO format: no frequencies, no negatives, ids with a gap and out of order, ids from 0."""
    return {
        "images": [
            {"id": 5, "file_name": "a.jpg", "height": 40, "width": 60},
            {"id": 0, "file_name": "b.jpg", "height": 40, "width": 60},
        ],
        "annotations": [
            {"id": 0, "image_id": 5, "category_id": 7, "bbox": [0, 0, 4, 5], "iscrowd": 0},
            {"id": 1, "image_id": 5, "category_id": 2, "segmentation": SQUARE, "iscrowd": 0},
            {
                "id": 2,
                "image_id": 0,
                "category_id": 90,
                "bbox": [0, 0, 9, 9],
                "segmentation": {"size": [40, 60], "counts": [0, 2400]},
                "iscrowd": 1,
            },
        ],
        "categories": [
            {"id": 90, "name": "toothbrush"},
            {"id": 2, "name": "bicycle"},
            {"id": 7, "name": "train"},
        ],
    }


GROUPS = ["r", "c", "f"]


def write(tmp_path, dataset):
    path = tmp_path / "val.json"
    path.write_text(json.dumps(dataset))
    return str(path)


def test_frequency_is_the_files_or_else_of_the_groups_by_category_id(tmp_path):
    dataset = coco_dataset()
    categories = load_ground_truth(write(tmp_path, dataset), GROUPS)["categories"]
    assert [(c["id"], c["frequency"]) for c in categories] == [(2, "r"), (7, "c"), (90, "f")]
    dataset["categories"][0]["frequency"] = "c"
    categories = load_ground_truth(write(tmp_path, dataset), GROUPS)["categories"]
    assert [c["frequency"] for c in categories] == ["r", "c", "c"]


def test_image_without_negatives_is_exhaustively_annotated_but_for_crowds(tmp_path):
    ground_truth = load_ground_truth(write(tmp_path, coco_dataset()), GROUPS)
    first, second = ground_truth["images"]
    assert (first["neg_category_ids"], first["not_exhaustive_category_ids"]) == ([90], [])
    assert (second["neg_category_ids"], second["not_exhaustive_category_ids"]) == ([2, 7], [90])
    assert all(a["category_id"] != 90 for a in ground_truth["annotations"])


def test_negatives_of_the_file_are_kept(tmp_path):
    """A crowd of such an image is an object, as for the official code."""
    dataset = coco_dataset()
    dataset["images"][0].update(neg_category_ids=[], not_exhaustive_category_ids=[7])
    dataset["images"][1]["neg_category_ids"] = [7]
    ground_truth = load_ground_truth(write(tmp_path, dataset), GROUPS)
    first, second = ground_truth["images"]
    assert (first["neg_category_ids"], first["not_exhaustive_category_ids"]) == ([], [7])
    assert (second["neg_category_ids"], second["not_exhaustive_category_ids"]) == ([7], [])
    assert len(ground_truth["annotations"]) == 3


def test_annotation_ids_start_at_one_and_shapes_are_complete(tmp_path):
    with_box, with_mask = load_ground_truth(write(tmp_path, coco_dataset()), GROUPS)["annotations"]
    assert (with_box["id"], with_box["area"]) == (1, 20)
    assert "segmentation" not in with_box
    assert (with_mask["id"], with_mask["area"]) == (2, 100)
    assert with_mask["bbox"] == [10, 10, 10, 10]


def test_complete_lvis_file_is_returned_as_it_is(tmp_path):
    dataset = {
        "images": [
            {
                "id": 1,
                "height": 40,
                "width": 60,
                "neg_category_ids": [2],
                "not_exhaustive_category_ids": [1],
            }
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [10, 10, 10, 10],
                "area": 99.5,
                "segmentation": SQUARE,
            }
        ],
        "categories": [{"id": 1, "frequency": "f"}, {"id": 2, "frequency": "r"}],
    }
    path = write(tmp_path, dataset)
    before = Path(path).read_bytes()
    assert load_ground_truth(path) == dataset
    assert Path(path).read_bytes() == before


def put(key, index, **values):
    def change(dataset):
        dataset[key][index].update(values)

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d.pop("annotations"), "annotations: no list"),
        (lambda d: d.update(images=[]), "images: the list is empty"),
        (put("images", 1, id=5), r"images\[1\]: id 5 occurs more than once"),
        (put("images", 1, id=True), r'images\[1\]: no integer "id"'),
        (put("images", 1, id=-1), "image -1: the id is not between 0 and"),
        (put("categories", 1, id=2**53 + 1), f"{2**53 + 1}: the id is not between 0 and"),
        (put("images", 0, height=True), r"image 5: height and width are \[True, 60\]"),
        (put("categories", 1, id=7), r"categories\[2\]: id 7 occurs more than once"),
        (put("categories", 1, frequency="rare"), "category 2: frequency is 'rare'"),
        (put("images", 0, neg_category_ids=3), "image 5: neg_category_ids is 3, expected a list"),
        (put("images", 0, neg_category_ids=[3]), "image 5: neg_category_ids holds 3"),
        (put("annotations", 1, id="1"), r'annotations\[1\]: no integer "id"'),
        (put("annotations", 1, image_id=99), "annotation 1: image_id 99 is not in images"),
        (put("annotations", 1, category_id=3), "annotation 1: category_id 3 is not in categories"),
        (put("annotations", 0, bbox=None), "annotation 0: bbox is None"),
        (put("annotations", 0, bbox=[1, 2, 3, float("nan")]), "annotation 0: bbox is"),
        (put("annotations", 0, area="big"), "annotation 0: area is 'big'"),
        (put("annotations", 1, segmentation=[[1] * 7]), "annotation 1: polygon with 7 numbers"),
        (put("annotations", 1, segmentation=[["1"] * 6]), "annotation 1: .* is not all numbers"),
        (
            put("annotations", 1, segmentation={"size": [60, 40], "counts": [0, 2400]}),
            r"annotation 1: RLE of size \[60, 40\], but the image has \[40, 60\]",
        ),
    ],
)
def test_malformed_file_is_named_with_the_id_in_one_line(tmp_path, change, message):
    dataset = copy.deepcopy(coco_dataset())
    change(dataset)
    path = write(tmp_path, dataset)
    with pytest.raises(ValueError, match=message) as error:
        load_ground_truth(path, GROUPS)
    assert str(error.value).startswith(path)
    assert "\n" not in str(error.value)


def test_the_same_file_is_refused_by_the_loader_in_the_same_words(tmp_path):
    dataset = coco_dataset()
    dataset["annotations"][0]["bbox"] = [True, 0, 4, 5]
    path = write(tmp_path, dataset)
    with pytest.raises(ValueError) as evaluated:
        load_ground_truth(path, GROUPS)
    with pytest.raises(ValueError) as loaded:
        read_annotated_images(path, "images")
    assert str(evaluated.value) in str(loaded.value)


def test_images_without_any_annotation(tmp_path):
    dataset = {**coco_dataset(), "annotations": []}
    ground_truth = load_ground_truth(write(tmp_path, dataset), GROUPS)
    assert ground_truth["annotations"] == []
    assert [image["neg_category_ids"] for image in ground_truth["images"]] == [[2, 7, 90]] * 2


def test_groups_that_are_missing_or_of_another_dataset(tmp_path):
    path = write(tmp_path, coco_dataset())
    with pytest.raises(ValueError, match='category 2: no "frequency"; give a config.* 3 cat'):
        load_ground_truth(path)
    with pytest.raises(ValueError, match="3 categories, but frequency groups of 2 classes"):
        load_ground_truth(path, ["r", "c"])


def test_missing_and_broken_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file: .*nowhere.json"):
        load_ground_truth(str(tmp_path / "nowhere.json"))
    broken = tmp_path / "broken.json"
    broken.write_text('{"images": [')
    with pytest.raises(ValueError, match="broken.json: not JSON, or not complete"):
        load_ground_truth(str(broken))


def test_real_coco_file(coco200):
    path = coco200 / "instances_val2017.json"
    dataset = json.loads(path.read_text())
    groups = ["rcf"[k % 3] for k in range(len(dataset["categories"]))]
    ground_truth = load_ground_truth(str(path), groups)
    assert len(ground_truth["annotations"]) == sum(not a["iscrowd"] for a in dataset["annotations"])
    for image in ground_truth["images"]:
        present = {a["category_id"] for a in dataset["annotations"] if a["image_id"] == image["id"]}
        assert present.isdisjoint(image["neg_category_ids"])
        assert len(present) + len(image["neg_category_ids"]) == 80


def test_images_for_the_test_loader(tmp_path):
    dataset = coco_dataset()
    url = "http://images.cocodataset.org/val2017/a.jpg"
    dataset["images"][0]["coco_url"] = url
    path = write(tmp_path, dataset)
    register_instances("some_birds", path, "images")
    ground_truth = load_ground_truth(path, GROUPS)
    size = {"height": 40, "width": 60}
    assert images_to_test(ground_truth, "some_birds") == [
        {"file_name": "images/b.jpg", "image_id": 0, **size},
        {"file_name": "images/a.jpg", "image_id": 5, **size},
    ]
    MetadataCatalog.get("some_lvis").set(json_file=path, image_root="images", evaluator_type="lvis")
    ground_truth["images"][1]["coco_url"] = url
    second, first = images_to_test(ground_truth, "some_lvis")
    assert first["file_name"] == second["file_name"] == "images/val2017/a.jpg"
    for image in ground_truth["images"]:
        image.update(file_name="../a.jpg")
    message = "image 0: '../a.jpg' leads out of the image folder (the first of 2 images without"
    with pytest.raises(ValueError) as error:
        images_to_test(ground_truth, "some_birds")
    assert str(error.value).startswith(f"{path}: {message}")
