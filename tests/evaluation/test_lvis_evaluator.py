import csv
import json
import logging
import os
import sys
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from eql_seesaw.data.register import register_instances
from eql_seesaw.evaluation import (
    LongTailLVISEvaluator,
    draw_predictions,
    lvis_evaluator,
    results_table,
)
from eql_seesaw.evaluation.pictures import choose_images

HEIGHT = WIDTH = 64
CATEGORY_IDS = {3: "umbrella", 7: "anchor", 8: "die"}
STATISTICS = SimpleNamespace(groups=["r", "c", "c"], image_counts=np.array([4, 50, 60]))
METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"]


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


@pytest.fixture(autouse=True)
def log_reaches_caplog(monkeypatch):
    """Detectron2's `setup_logger`, which other tests may have called, stops propagation."""
    monkeypatch.setattr(logging.getLogger("eql_seesaw"), "propagate", True)


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


def test_box_and_mask_metrics(coco_val):
    results = evaluate(LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS))
    assert list(results) == ["bbox", "segm"]
    # Precisions at the three umbrellas are 1/2, 2/3, 3/4; two anchors of three are found.
    expected = {"AP50": (75 + 100 * 67 / 101) / 2, "APr": 75, "APc": 100 * 67 / 101}
    for task in results.values():
        assert {name: task[name] for name in expected} == pytest.approx(expected)


def test_metrics_without_ground_truth_are_left_out(coco_val, caplog):
    evaluator = LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS)
    with caplog.at_level(logging.INFO, logger="eql_seesaw"):
        results = evaluate(evaluator)
    assert list(results["bbox"]) == ["AP", "AP50", "AP75", "APs", "APr", "APc"]
    (record,) = caplog.records
    assert results_table(results) in record.getMessage()
    assert "n/a" in record.getMessage()


def test_boxes_only(coco_val):
    evaluator = LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS)
    assert list(evaluate(evaluator, masks=False)) == ["bbox"]


def test_files(coco_val, tmp_path):
    folder = tmp_path / "output" / "tiny_val"
    evaluate(LongTailLVISEvaluator(coco_val, str(folder), class_statistics=STATISTICS))
    names = ["lvis_instances_results.json", "per_category.csv"]
    assert sorted(path.name for path in folder.iterdir()) == names

    results = json.loads((folder / names[0]).read_text())
    assert [result["category_id"] for result in results] == [3, 8, 3, 3, 7, 3, 7]
    assert results[0]["image_id"] == 100
    assert results[0]["bbox"] == [0, 0, 16, 16]
    assert results[0]["segmentation"]["size"] == [HEIGHT, WIDTH]

    with open(folder / names[1], newline="") as f:
        rows = list(csv.reader(f))
    assert rows == [
        ["category id", "name", "group", "train images", "AP box", "AP mask"],
        ["3", "umbrella", "rare", "4", "75.000", "75.000"],
        ["7", "anchor", "common", "50", "66.337", "66.337"],
        ["8", "die", "common", "60", "", ""],
    ]


def test_no_detections_at_all(coco_val, tmp_path, caplog):
    evaluator = LongTailLVISEvaluator(coco_val, str(tmp_path), class_statistics=STATISTICS)
    evaluator.reset()
    for i in range(6):
        evaluator.process([{"image_id": 100 + i}], [{"instances": instances([], [], [])}])
    results = evaluator.evaluate()
    zeros = dict.fromkeys(["AP", "AP50", "AP75", "APs", "APr", "APc"], 0.0)
    assert results == {"bbox": zeros, "segm": zeros}
    assert "no detections at all" in caplog.text
    assert json.loads((tmp_path / "lvis_instances_results.json").read_text()) == []
    assert (tmp_path / "per_category.csv").read_text().splitlines()[1] == (
        "3,umbrella,rare,4,0.000,0.000"
    )


def test_not_distributed(coco_val):
    alone = LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS, distributed=False)
    assert evaluate(alone) == evaluate(LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS))


def test_reset_forgets(coco_val):
    evaluator = LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS)
    first = evaluate(evaluator)
    assert evaluate(evaluator, masks=False) == {"bbox": first["bbox"]}


def test_unprocessed_images_are_said_to_be_missing(coco_val, caplog):
    evaluator = LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS)
    results = evaluate(evaluator, image_numbers=[0])
    assert "Only 1 of the 6 images of tiny_val were processed" in caplog.text
    assert results["bbox"]["APc"] == 0


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


def test_crowd_is_ignored(tmp_path, coco_val):
    dataset = coco_dataset()
    dataset["annotations"].append(
        {
            "id": 50,
            "image_id": 102,
            "category_id": 3,
            "iscrowd": 1,
            "bbox": [36, 36, 28, 28],
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]},
        }
    )
    register(tmp_path, dataset, thing_dataset_id_to_contiguous_id={3: 0, 7: 1, 8: 2})
    results = evaluate(LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS))
    assert results["bbox"]["APr"] == pytest.approx(100)


def test_max_detections(coco_val):
    evaluator = LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS, max_detections=1)
    assert evaluate(evaluator)["bbox"]["APr"] < 75


def test_bad_dataset_fails_in_the_constructor(tmp_path, coco_val):
    with pytest.raises(ValueError, match="category 3: no .frequency"):
        LongTailLVISEvaluator(coco_val)
    MetadataCatalog.pop(coco_val)
    with pytest.raises(ValueError, match="'tiny_val' has no 'json_file'"):
        LongTailLVISEvaluator(coco_val)
    MetadataCatalog.get(coco_val).set(json_file=str(tmp_path / "nowhere.json"))
    with pytest.raises(FileNotFoundError, match="nowhere.json"):
        LongTailLVISEvaluator(coco_val)


def test_category_ids_that_do_not_fit_fail_in_the_constructor(tmp_path, coco_val):
    register(tmp_path, coco_dataset(), thing_classes=["umbrella", "anchor", "die"])
    with pytest.raises(ValueError, match="category ids other than 1 to 3"):
        LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS)
    register(tmp_path, coco_dataset(), thing_dataset_id_to_contiguous_id={3: 0, 7: 1})
    with pytest.raises(ValueError, match="val.json are not those in the metadata"):
        LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS)


def test_category_ids_that_come_with_loading_are_checked_before_inference(tmp_path, coco_val):
    register(tmp_path, coco_dataset())
    evaluator = LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS)
    with pytest.raises(ValueError, match="category ids other than 1 to 3"):
        evaluator.reset()
    MetadataCatalog.get(coco_val).set(thing_dataset_id_to_contiguous_id={3: 0, 7: 1, 8: 2})
    evaluator.reset()


def test_own_dataset_that_was_not_loaded_yet(tmp_path, coco_val):
    register(tmp_path, coco_dataset())
    register_instances(coco_val, str(tmp_path / "val.json"), str(tmp_path))
    try:
        results = evaluate(LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS))
    finally:
        DatasetCatalog.remove(coco_val)
    assert results["bbox"]["APr"] == pytest.approx(75)


def test_missing_package_fails_in_the_constructor(coco_val, monkeypatch):
    monkeypatch.setitem(sys.modules, "lvis", None)
    with pytest.raises(ImportError, match="lvis package and OpenCV .* opencv-python-headless$"):
        LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS)


@pytest.fixture
def photographs(tmp_path, coco_val):
    """The images, and an evaluator that has processed them and is to draw two."""
    MetadataCatalog.get(coco_val).set(thing_classes=list(CATEGORY_IDS.values()))
    for i in range(6):
        Image.new("RGB", (WIDTH, HEIGHT), (40 * i, 90, 90)).save(tmp_path / f"{i}.png")
    evaluator = LongTailLVISEvaluator(
        coco_val, str(tmp_path / "output"), class_statistics=STATISTICS, num_pictures=2
    )
    evaluator.reset()
    for i in range(6):
        image = {"image_id": 100 + i, "file_name": str(tmp_path / f"{i}.png")}
        evaluator.process([image], [{"instances": outputs(i)}])
    return evaluator


def test_pictures_are_those_of_all_results(photographs, tmp_path):
    photographs.evaluate()
    photographs.draw(str(tmp_path / "drawn.png"), score_threshold=0.45)

    dataset = coco_dataset()
    for image in dataset["images"]:
        image["image_id"] = image.pop("id")
        image["file_name"] = str(tmp_path / image["file_name"])
        image["annotations"] = [
            {**annotation, "category_id": {3: 0, 7: 1}[annotation["category_id"]]}
            for annotation in dataset["annotations"]
            if annotation["image_id"] == image["image_id"]
        ]
    chosen = choose_images(dataset["images"], 2, image_counts=STATISTICS.image_counts)
    draw_predictions(
        chosen,
        json.loads((tmp_path / "output" / "lvis_instances_results.json").read_text()),
        MetadataCatalog.get("tiny_val"),
        str(tmp_path / "expected.png"),
        score_threshold=0.45,
        image_counts=STATISTICS.image_counts,
    )
    with Image.open(tmp_path / "drawn.png") as drawn, Image.open(tmp_path / "expected.png") as all_:
        assert drawn.tobytes() == all_.tobytes()


def test_results_are_released(photographs, tmp_path, monkeypatch, caplog):
    drawn = []
    monkeypatch.setattr(lvis_evaluator, "draw_predictions", lambda *args, **_: drawn.append(args))
    photographs.evaluate()
    for _ in range(2):
        photographs.draw(str(tmp_path / "drawn.png"))
    ((images, results, *_),) = drawn  # drawn once, and then nothing is left to draw
    assert len(images) == 2
    assert {r["image_id"] for r in results} == {image["image_id"] for image in images}
    photographs.evaluate()
    assert "Only 0 of the 6 images" in caplog.text


def test_failed_drawing_does_not_lose_the_evaluation(photographs, tmp_path, caplog):
    for i in range(6):
        (tmp_path / f"{i}.png").unlink()
    assert photographs.evaluate()["bbox"]["APr"] == pytest.approx(75)
    photographs.draw(str(tmp_path / "pictures" / "drawn.png"))
    assert "Could not draw" in caplog.text and "drawn.png" in caplog.text
    assert (tmp_path / "output" / "per_category.csv").exists()
    assert not (tmp_path / "pictures").exists()


def test_no_pictures_asked_for(coco_val, tmp_path):
    evaluator = LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS)
    evaluate(evaluator)
    evaluator.draw(str(tmp_path / "drawn.png"))
    assert not (tmp_path / "drawn.png").exists()


def test_class_the_dataset_does_not_have(coco_val):
    evaluator = LongTailLVISEvaluator(coco_val, class_statistics=STATISTICS)
    evaluator.reset()
    with pytest.raises(ValueError, match="class 3, .* 3 classes; check MODEL.ROI_HEADS.NUM_CL"):
        evaluator.process(
            [{"image_id": 100}], [{"instances": instances([[0, 0, 9, 9]], [0.5], [3])}]
        )


def test_failed_evaluation_leaves_no_half_written_file(coco_val, tmp_path, monkeypatch):
    folder = tmp_path / "output"
    evaluator = LongTailLVISEvaluator(coco_val, str(folder), class_statistics=STATISTICS)
    real_dumps = json.dumps

    def fail(result):
        if result["image_id"] == 103:
            raise OSError("disk full")
        return real_dumps(result)

    monkeypatch.setattr(json, "dumps", fail)
    with pytest.raises(OSError, match="disk full"):
        evaluate(evaluator)
    assert list(folder.iterdir()) == []


def evaluate_on_rank(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    metadata = MetadataCatalog.get("tiny_val")
    metadata.set(thing_dataset_id_to_contiguous_id={3: 0, 7: 1, 8: 2})
    metadata.set(json_file=os.path.join(folder, "val.json"))
    evaluator = LongTailLVISEvaluator("tiny_val", folder, class_statistics=STATISTICS)
    images = range(4) if rank == 0 else range(4, 6)
    results = evaluate(evaluator, images)
    with open(os.path.join(folder, f"rank{rank}.json"), "w") as f:
        json.dump(results, f)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_are_one(coco_val, tmp_path):
    torch.multiprocessing.spawn(evaluate_on_rank, (str(tmp_path),), nprocs=2)
    one = tmp_path / "one"
    results = evaluate(LongTailLVISEvaluator(coco_val, str(one), class_statistics=STATISTICS))
    assert json.loads((tmp_path / "rank0.json").read_text()) == results
    assert json.loads((tmp_path / "rank1.json").read_text()) == {}
    for name in ("lvis_instances_results.json", "per_category.csv"):
        assert (tmp_path / name).read_text() == (one / name).read_text()
