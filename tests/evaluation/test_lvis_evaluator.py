import csv
import json
import logging
import os
from types import SimpleNamespace

import hotcoco
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from eql_seesaw.data.register import register_instances
from eql_seesaw.evaluation import LongTailLVISEvaluator, results_table
from eql_seesaw.evaluation.matches import Matches
from eql_seesaw.evaluation.result import Result

HEIGHT = WIDTH = 64
# The last is no formula in a spreadsheet.
CATEGORY_IDS = {3: "umbrella", 7: "anchor", 8: "=die"}
STATISTICS = SimpleNamespace(groups=["r", "c", "c"], image_counts=np.array([4, 50, 60]))
# Of the metrics that have ground truth here.
METRICS = ["AP", "APc", "APr", "APs", "AP50", "AP75", "AR", "ARs", "ARr", "ARc"]
ERRORS = ["ECE", "ECEr", "ECEc"]
FILES = [
    "evaluation.json",
    "lvis_instances_results.json",
    "matches_bbox.npz",
    "matches_segm.npz",
    "per_category.csv",
]


def coco_dataset(num_images=6):
    """Image i holds one 16 x 16 square of category 3 or 7, at (i, i); nothing holds category 8."""
    annotations = [
        {
            "id": i,
            "image_id": 100 + i,
            "category_id": (3, 7)[i % 2],
            "iscrowd": 0,
            "bbox": [i, i, 16, 16],
            "segmentation": [[i, i, i + 16, i, i + 16, i + 16, i, i + 16]],
        }
        for i in range(num_images)
    ]
    return {
        "images": [
            {"id": 100 + i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH}
            for i in range(num_images)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in CATEGORY_IDS.items()],
    }


def register(folder, dataset, **metadata):
    json_file = folder / "val.json"
    json_file.write_text(json.dumps(dataset))
    MetadataCatalog.pop("tiny_val", None)
    MetadataCatalog.get("tiny_val").set(json_file=str(json_file), **metadata)


@pytest.fixture
def coco_val(tmp_path):
    register(tmp_path, coco_dataset(), thing_dataset_id_to_contiguous_id={3: 0, 7: 1, 8: 2})
    yield "tiny_val"
    MetadataCatalog.pop("tiny_val", None)


def instances(boxes, scores, classes, masks=True):
    result = Instances((HEIGHT, WIDTH))
    result.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    result.scores = torch.tensor(scores, dtype=torch.float32)
    result.pred_classes = torch.tensor(classes, dtype=torch.int64)
    if masks:
        result.pred_masks = torch.zeros(len(boxes), HEIGHT, WIDTH, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(result.pred_masks, boxes, strict=True):
            mask[y0:y1, x0:x1] = True
    return result


def outputs(i, masks=True):
    """The square, with the right class but in image 1, and a false positive before it in 2."""
    square = [i, i, i + 16, i + 16]
    label = 2 if i == 1 else i % 2
    if i == 2:
        return instances([[40, 40, 60, 60], square], [0.99, 0.5], [label, label], masks)
    return instances([square], [0.9 - 0.1 * i], [label], masks)


def evaluate(evaluator, image_numbers=range(6), masks=True):
    evaluator.reset()
    for i in image_numbers:
        evaluator.process([{"image_id": 100 + i}], [{"instances": outputs(i, masks)}])
    return evaluator.evaluate()


def test_box_and_mask_metrics(coco_val, caplog):
    evaluator = LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS)
    with caplog.at_level(logging.INFO, logger="eql_seesaw"):
        results = evaluate(evaluator)
    assert list(results) == ["bbox", "segm"]
    # Precisions at the three umbrellas are 1/2, 2/3, 3/4; two anchors of three are found.
    expected = {"AP50": (75 + 100 * 67 / 101) / 2, "APr": 75, "APc": 100 * 67 / 101}
    # Umbrellas: 0.9 (a little less, in float32), 0.5 and 0.5 are right, 0.99 is wrong.
    error = (abs(0.9 - 1) + 2 * abs(0.5 - 1) + abs(0.99 - 0)) / 4
    for task in results.values():
        # Metrics without ground truth are left out.
        assert sorted(task) == sorted(METRICS + ERRORS)
        assert {name: task[name] for name in expected} == pytest.approx(expected)
        assert task["ECEr"] == pytest.approx(100 * error, abs=1e-4)
    (record,) = caplog.records
    assert results_table(results) in record.getMessage() and "n/a" in record.getMessage()
    assert f"by hotcoco {hotcoco.__version__}" in record.getMessage()


def test_other_groups_than_by_training_images_are_a_warning(tmp_path, coco_val, caplog):
    dataset = coco_dataset()
    for category, group in zip(dataset["categories"], "rcc", strict=True):
        category["frequency"] = group
    (tmp_path / "val.json").write_text(json.dumps(dataset))
    LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS)
    LongTailLVISEvaluator(coco_val)  # nothing is known of training
    assert not caplog.records
    dataset["categories"][1]["frequency"] = "f"
    (tmp_path / "val.json").write_text(json.dumps(dataset))
    LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "val.json: 1 of 3 classes are in another group there" in record.getMessage()
    assert "such as 'anchor': frequent there, common by training images" in record.getMessage()


def test_files(coco_val, tmp_path):
    folder = tmp_path / "output" / "tiny_val"
    folder.mkdir(parents=True)
    leftovers = [folder / f"lvis_instances_results.json.{number}.partial" for number in (7, 77)]
    for path in leftovers:
        path.touch()
    os.utime(leftovers[0], (0, 0))  # of a killed evaluation; another is writing the second one
    evaluator = LongTailLVISEvaluator(coco_val, str(folder), class_statistics=STATISTICS)
    evaluate(evaluator)
    leftovers[1].unlink()
    assert sorted(path.name for path in folder.iterdir()) == FILES

    results = json.loads((folder / "lvis_instances_results.json").read_text())
    assert [result["category_id"] for result in results] == [3, 8, 3, 3, 7, 3, 7]
    assert results[0]["image_id"] == 100
    assert results[0]["bbox"] == [0, 0, 16, 16]
    assert results[0]["segmentation"]["size"] == [HEIGHT, WIDTH]

    with open(folder / "per_category.csv", newline="") as f:
        rows = list(csv.reader(f))
    assert rows == [
        ["category id", "name", "group", "train images", "objects", "AP box", "AP mask"],
        ["3", "umbrella", "rare", "4", "3", "75.000", "75.000"],
        ["7", "anchor", "common", "50", "3", "66.337", "66.337"],
        ["8", "'=die", "common", "60", "0", "", ""],
    ]

    record = Result.load(str(folder))
    assert (record.dataset, record.metrics) == ("tiny_val", evaluator.result.metrics)
    assert (record.num_images, record.num_processed_images) == (6, 6)
    assert record.file_names == {100 + i: None for i in range(6)}
    umbrella, _, die = record.categories
    numbers = {"AP": 75, "AP50": 75, "AR": pytest.approx(100)}
    assert umbrella == {
        **{"id": 3, "name": "umbrella", "group": "r", "train_images": 4, "num_objects": 3},
        **{"bbox": numbers, "segm": numbers},
    }
    assert die["segm"] == {"AP": None, "AP50": None, "AR": None}

    record.save(str(folder))  # where it is from: nothing is lost
    matches = Matches.load(str(folder / "matches_segm.npz"))
    assert matches.image_ids.tolist() == [100, 101, 102, 102, 103, 104, 105]
    assert matches.classes.tolist() == [0, 2, 0, 0, 1, 0, 1]
    assert matches.annotation_ids.tolist() == [1, 0, 0, 3, 4, 5, 6]
    # Image 101's anchor was taken for a die.
    assert matches.confusions.tolist() == [[1, 2, 1]]
    assert np.isnan(matches.gt_scores).tolist() == [False, True, False, False, False, False]
    evaluate(evaluator, masks=False)
    assert sorted(os.listdir(folder)) == sorted({*FILES} - {"matches_segm.npz"})


def test_no_detections_at_all(coco_val, tmp_path, caplog):
    evaluator = LongTailLVISEvaluator(coco_val, str(tmp_path), class_statistics=STATISTICS)
    evaluator.reset()
    for i in range(6):
        evaluator.process([{"image_id": 100 + i}], [{"instances": instances([], [], [])}])
    results = evaluator.evaluate()
    zeros = dict.fromkeys(METRICS, 0.0)
    assert results == {"bbox": zeros, "segm": zeros}
    assert "no detections at all" in caplog.text
    assert json.loads((tmp_path / "lvis_instances_results.json").read_text()) == []
    assert (tmp_path / "per_category.csv").read_text().splitlines()[1] == (
        "3,umbrella,rare,4,3,0.000,0.000"
    )


def test_image_that_comes_twice_is_left_out(coco_val, tmp_path):
    evaluator = LongTailLVISEvaluator(coco_val, str(tmp_path), class_statistics=STATISTICS)
    once = evaluate(evaluator)
    expected = (tmp_path / "lvis_instances_results.json").read_text()
    assert evaluate(evaluator, image_numbers=[0, 1, 2, 1, 3, 4, 5, 0]) == once
    assert (tmp_path / "lvis_instances_results.json").read_text() == expected


def test_reset_and_evaluate_forget(coco_val, caplog):
    """Also whether there were masks, and so boundaries of them."""
    evaluator = LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS, boundary_ap=True)
    first = evaluate(evaluator)
    assert evaluate(evaluator, masks=False) == {"bbox": first["bbox"]}
    evaluator.evaluate()
    assert "Only 0 of the 6 images" in caplog.text


def test_built_in_lvis_ids_are_the_class_plus_one(tmp_path, coco_val):
    dataset = coco_dataset()
    dataset["categories"] = [
        {"id": i, "name": str(i), "frequency": f, "image_count": 11 * i}
        for i, f in ((1, "r"), (2, "f"), (3, "c"))
    ]
    for i, annotation in enumerate(dataset["annotations"]):
        annotation["category_id"] = 1 + i % 2
    register(tmp_path, dataset)
    results = evaluate(LongTailLVISEvaluator("tiny_val", str(tmp_path)))
    assert results["bbox"]["APr"] == pytest.approx(75)
    assert results["bbox"]["APf"] == pytest.approx(100 * 67 / 101)
    rows = (tmp_path / "per_category.csv").read_text().splitlines()
    assert [row.split(",")[2:4] for row in rows[1:]] == [
        ["rare", "11"],
        ["frequent", "22"],
        ["common", "33"],
    ]


def test_dataset_that_does_not_fit_fails_in_the_constructor(tmp_path, coco_val):
    def assert_fails(message, error=ValueError, **kwargs):
        with pytest.raises(error, match=message):
            LongTailLVISEvaluator(coco_val, **kwargs)

    assert_fails("category 3: no .frequency")
    register(tmp_path, coco_dataset(), thing_classes=["umbrella", "anchor", "die"])
    assert_fails("category ids other than 1 to 3", class_statistics=STATISTICS)
    register(tmp_path, coco_dataset(), thing_dataset_id_to_contiguous_id={3: 0, 7: 1})
    assert_fails("val.json are not those in the metadata", class_statistics=STATISTICS)
    MetadataCatalog.pop(coco_val)
    assert_fails("'json_file' does not exist", AttributeError)
    MetadataCatalog.get(coco_val).set(json_file=str(tmp_path / "nowhere.json"))
    assert_fails("nowhere.json", FileNotFoundError)


def test_own_dataset_that_was_not_loaded_yet(tmp_path, coco_val):
    register(tmp_path, coco_dataset())
    register_instances(coco_val, str(tmp_path / "val.json"), str(tmp_path))
    try:
        results = evaluate(LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS))
    finally:
        DatasetCatalog.remove(coco_val)
    assert results["bbox"]["APr"] == pytest.approx(75)


def test_record_that_is_not_there_or_broken(tmp_path):
    with pytest.raises(FileNotFoundError, match="not the folder of an evaluation"):
        Result.load(str(tmp_path))
    (tmp_path / "evaluation.json").write_text('{"dataset": 3}')
    with pytest.raises(ValueError, match="evaluation.json: Expected `str`"):
        Result.load(str(tmp_path))


def test_images_with_and_without_masks(coco_val):
    evaluator = LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS)
    evaluator.reset()
    evaluator.process([{"image_id": 100}], [{"instances": outputs(0)}])
    with pytest.raises(ValueError, match="Image 101: either all images have masks, or none"):
        evaluator.process([{"image_id": 101}], [{"instances": outputs(1, masks=False)}])
