import json
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog

from eql_seesaw.data.register import register_instances
from eql_seesaw.evaluation.ground_truth import load_ground_truth
from eql_seesaw.evaluation.ground_truth import test_images as images_to_test
from eql_seesaw.evaluation.official_engine import official_package

from .cases import evaluate_lvis, tiny_case

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
    path = write(tmp_path, {**coco_dataset(), "annotations": []})
    images = load_ground_truth(path, GROUPS)["images"]
    assert [image["neg_category_ids"] for image in images] == [[2, 7, 90]] * 2


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
    dataset, _ = tiny_case()
    path = write(tmp_path, dataset)
    assert load_ground_truth(path) == dataset
    assert json.loads(Path(path).read_text()) == dataset


def test_groups_that_are_missing_or_of_another_dataset(tmp_path):
    path = write(tmp_path, coco_dataset())
    with pytest.raises(ValueError, match='category 2: no "frequency"; give a config.* 3 cat'):
        load_ground_truth(path)
    with pytest.raises(ValueError, match="3 categories, but frequency groups of 2 classes"):
        load_ground_truth(path, ["r", "c"])


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


@pytest.mark.parametrize(
    ("section", "index", "change", "same_as"),
    [
        ("images", 0, {"neg_category_ids": [90, 7777]}, {"neg_category_ids": [90]}),
        ("annotations", 0, {"image_id": 77}, None),
        ("annotations", 0, {"iscrowd": "no"}, {"iscrowd": 0}),
        ("annotations", 1, {"area": float("nan")}, {"area": 100}),
    ],
)
def test_what_is_of_no_consequence_is_a_warning(tmp_path, caplog, section, index, change, same_as):
    """As for the ``lvis`` package, which gives the number of the file without it."""
    dataset, expected = coco_dataset(), coco_dataset()
    dataset[section][index].update(change)
    if same_as is None:
        del expected[section][index]
    else:
        expected[section][index].update(same_as)
    wanted = load_ground_truth(write(tmp_path, expected), GROUPS)
    assert not caplog.records
    assert load_ground_truth(write(tmp_path, dataset), GROUPS) == wanted
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "val.json: " in record.getMessage()


def test_numbers_of_an_odd_file_are_the_official_ones(tmp_path):
    dataset = load_ground_truth(write(tmp_path, coco_dataset()), GROUPS)
    detections = [
        {"image_id": image_id, "category_id": k, "bbox": [x, 0, 4, 5], "score": 0.9 - x / 9}
        for image_id in (-5, 7)
        for k in (2, 7, 90)
        for x in (0, 1, 2)
    ]
    first, second = dataset["images"]
    first.update(id=-5, neg_category_ids=[90, 777])
    second.update(id=7, not_exhaustive_category_ids=[90, 999])
    box = {"bbox": [0, 0, 4, 5], "area": 20.0}
    dataset["annotations"] = [
        {"id": 1, "image_id": -5, "category_id": 7, **box, "iscrowd": None},
        {"id": 2, "image_id": -5, "category_id": 2, **box, "iscrowd": 1},
        {"id": 3, "image_id": 77, "category_id": 2, **box},
        {"id": 4, "image_id": 7, "category_id": 777, **box},
        {"id": 5, "image_id": 7, "category_id": 7, **box, "bbox": [1, 0, 4, 5]},
    ]
    path = write(tmp_path, dataset)
    lvis = official_package()
    official = lvis.LVISEval(lvis.LVIS(path), [dict(x) for x in detections], "bbox")
    official.run()
    found = evaluate_lvis(load_ground_truth(path), detections, "bbox").metrics
    for name in ("AP", "AP50", "APr", "APc"):
        assert found[name] == pytest.approx(100 * official.results[name])
    assert 0 < found["AP"] < 100
