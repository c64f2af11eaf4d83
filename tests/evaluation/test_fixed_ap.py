import json

import numpy as np
import pytest

from eql_seesaw.config import LVIS_ENGINES
from eql_seesaw.evaluation import evaluate_lvis
from eql_seesaw.evaluation.fixed_ap import counts_for_fixed_ap, evaluate_fixed_ap

from .cases import random_case, tiny_case


def test_highest_scores_of_each_class_count():
    category_ids = np.array([5, 3, 5, 5, 3, 5])
    scores = np.array([0.2, 0.1, 0.9, 0.2, 0.3, 0.2])
    counts = counts_for_fixed_ap(category_ids, scores, per_class=2)
    assert counts.tolist() == [True, True, True, False, True, False]
    assert counts_for_fixed_ap(category_ids, scores).all()
    assert counts_for_fixed_ap(category_ids[:0], scores[:0]).tolist() == []


@pytest.mark.parametrize("per_class", [3, 10_000])
def test_fixed_ap_is_the_official_ap_of_what_counts(tmp_path, monkeypatch, per_class):
    """More than 300 detections in an image, and a limit per class that bites."""
    monkeypatch.setattr(counts_for_fixed_ap, "__defaults__", (per_class,))
    ground_truth, results = random_case(0)
    # As many of an empty mask in the image of the last detection, before all others of it.
    results += [{**results[-1], "score": 1.0}] * 300
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


def test_no_detections(tmp_path):
    (tmp_path / "results.json").write_text("[]")
    fixed = evaluate_fixed_ap(tiny_case()[0], str(tmp_path / "results.json"), ["bbox"])
    assert fixed["bbox"].metrics["AP"] == 0
