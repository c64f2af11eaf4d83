import json

import numpy as np
import pycocotools.mask as mask_util
import pytest

from benchmarks.lvis_like_validation_set import (
    lvis_like_detections,
    lvis_like_ground_truth,
)
from eql_seesaw.config import LVIS_ENGINES
from eql_seesaw.evaluation import evaluate_lvis
from eql_seesaw.evaluation.fixed_ap import counts_for_fixed_ap, evaluate_fixed_ap


def test_highest_scores_of_each_class_count():
    category_ids = np.array([5, 3, 5, 5, 3, 5])
    scores = np.array([0.2, 0.1, 0.9, 0.2, 0.3, 0.2])
    counts = counts_for_fixed_ap(category_ids, scores, per_class=2)
    assert counts.tolist() == [True, True, True, False, True, False]
    assert counts_for_fixed_ap(category_ids, scores).all()
    assert counts_for_fixed_ap(category_ids[:0], scores[:0]).tolist() == []


@pytest.mark.parametrize("per_class", [3, 10_000])
def test_fixed_ap_is_the_official_ap_of_what_counts(tmp_path, monkeypatch, per_class):
    """More than 300 detections an image, and a limit per class that bites."""
    monkeypatch.setattr(counts_for_fixed_ap, "__defaults__", (per_class,))
    ground_truth = lvis_like_ground_truth(num_images=6)
    results = [r for of_image in lvis_like_detections(ground_truth, 400) for r in of_image]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))

    by_class = {}
    for result in sorted(results, key=lambda result: -result["score"]):  # stable
        by_class.setdefault(result["category_id"], []).append(result)
    chosen = [result for of_class in by_class.values() for result in of_class[:per_class]]
    chosen.sort(key=results.index)
    assert (len(chosen) < len(results)) == (per_class == 3)

    for engine in LVIS_ENGINES:
        fixed = evaluate_fixed_ap(ground_truth, str(path), ["bbox", "segm"], engine)
        for iou_type in ("bbox", "segm"):
            expected = evaluate_lvis(ground_truth, chosen, iou_type, -1, "lvis")
            np.testing.assert_array_equal(fixed[iou_type].precision, expected.precision)
            np.testing.assert_array_equal(fixed[iou_type].recall, expected.recall)
            assert fixed[iou_type].metrics == expected.metrics
            limited = evaluate_lvis(ground_truth, results, iou_type)
            assert fixed[iou_type].metrics["AR"] != limited.metrics["AR"]


def thin_mask(x):
    """In an image of 100 x 100 pixels."""
    mask = np.zeros((100, 100), dtype=np.uint8, order="F")
    mask[:90, x : x + 2] = 1
    return {"size": [100, 100], "counts": mask_util.encode(mask)["counts"].decode()}


def tiny_case(**change):
    """Two objects that are thin masks in large boxes, of which the first is found."""
    annotations = [
        {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": [x, 0, 60, 90], "area": 180}
        for i, x in enumerate((0, 40))
    ]
    for annotation, x in zip(annotations, (0, 40), strict=True):
        annotation["segmentation"] = thin_mask(x)
    annotations[1].update(change)
    image = {"id": 1, "height": 100, "width": 100}
    image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
    ground_truth = {
        "images": [image],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "reed", "frequency": "c"}],
    }
    found = {key: annotations[0][key] for key in ("image_id", "category_id", "bbox")}
    other = {**found, "score": 0.95, "segmentation": thin_mask(20), "bbox": [20, 0, 60, 90]}
    return ground_truth, [other, {**found, "score": 0.9, "segmentation": thin_mask(0)}]


def fixed_metrics(tmp_path, ground_truth, results, iou_type):
    (tmp_path / "results.json").write_text(json.dumps(results))
    fixed = evaluate_fixed_ap(ground_truth, str(tmp_path / "results.json"), [iou_type])
    return fixed[iou_type].metrics


def test_mask_areas_are_those_of_the_masks(tmp_path):
    """The wrong detection is small by its mask, so it counts among the small ones."""
    ground_truth, results = tiny_case()
    metrics = fixed_metrics(tmp_path, ground_truth, results, "segm")
    assert metrics["APs"] == pytest.approx(evaluate_lvis(*tiny_case(), "segm").metrics["APs"])
    assert metrics["APs"] == pytest.approx(100 * 51 / 101 / 2)


def test_ignored_objects(tmp_path):
    ground_truth, results = tiny_case(ignore=1)
    metrics = fixed_metrics(tmp_path, ground_truth, results[1:], "bbox")
    assert metrics["AP"] == pytest.approx(100)


def test_no_detections(tmp_path):
    ground_truth = lvis_like_ground_truth(num_images=2)
    path = tmp_path / "results.json"
    path.write_text("[]")
    fixed = evaluate_fixed_ap(ground_truth, str(path), ["bbox"])
    assert fixed["bbox"].metrics["AP"] == 0
