import numpy as np
import pytest

from eql_seesaw.evaluation import lvis_evaluation
from eql_seesaw.evaluation.official_engine import best_of_each_class

from .cases import evaluate_lvis, evaluated, random_case, tiny_case


@pytest.mark.parametrize("per_class", [3, 10_000])
def test_fixed_ap_is_the_official_ap_of_what_counts(monkeypatch, per_class):
    """More than 300 detections in an image, and a limit per class that bites."""
    monkeypatch.setattr(lvis_evaluation, "DETECTIONS_PER_CLASS", per_class)
    ground_truth, results = random_case(0)
    # As many of an empty mask in the image of the last detection, before all others of it.
    results += [{**results[-1], "score": 1.0}] * 300
    order = [image["id"] for image in ground_truth["images"]]
    results.sort(key=lambda result: order.index(result["image_id"]))

    chosen = best_of_each_class(results, per_class)
    assert (len(chosen) < len(results)) == (per_class == 3)
    evaluation = evaluated(ground_truth, results, ["bbox", "segm"], 300, True)
    plain = evaluated(ground_truth, results, ["bbox", "segm"])
    for iou_type in ("bbox", "segm"):
        expected = evaluate_lvis(ground_truth, chosen, iou_type, -1, "lvis")
        fixed = evaluation.fixed_result(iou_type)
        np.testing.assert_array_equal(fixed.precision, expected.precision)
        np.testing.assert_array_equal(fixed.recall, expected.recall)
        assert fixed.metrics == expected.metrics
        assert fixed.metrics["AR"] != evaluation.result(iou_type).metrics["AR"]
        # What is kept for it changes no other number.
        assert evaluation.result(iou_type).metrics == plain.result(iou_type).metrics
        for name, column in vars(evaluation.matches(iou_type)).items():
            np.testing.assert_array_equal(column, getattr(plain.matches(iou_type), name))


def test_best_of_each_class():
    scores = [(5, 0.2), (3, 0.1), (5, 0.9), (5, 0.2), (3, 0.3), (5, 0.2)]
    results = [{"category_id": k, "score": score, "id": i} for i, (k, score) in enumerate(scores)]
    assert {result["id"] for result in best_of_each_class(results, 2)} == {0, 1, 2, 4}
    assert len(best_of_each_class(results, 10)) == 6


def test_no_detections():
    evaluation = evaluated(tiny_case()[0], [], ["bbox"], 300, True)
    assert evaluation.fixed_result("bbox").metrics["AP"] == 0
