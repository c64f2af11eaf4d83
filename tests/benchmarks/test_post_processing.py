import dataclasses

import pytest

from eql_seesaw.benchmarks import post_processing
from eql_seesaw.benchmarks.post_processing import (
    CASES,
    QUICK_CASES,
    SCORE_THRESH,
    are_equal,
    detections,
    fast_rcnn_inference_topk,
    predictions,
    rows,
)


def test_rows():
    measured = list(rows("cpu", quick=True))
    assert [row.parameters["num_classes"] for row in measured] == [20, 40]
    for row in measured:
        assert row.benchmark == "post_processing"
        assert row.identical
        assert len(row.seconds) == len(row.peer_seconds) == 2
        assert row.memory > 0 and row.peer_memory > 0


def test_sizes_of_the_issue():
    assert {80, 1203, 13_000} <= {case.num_classes for case in CASES}
    assert all(case.time_limit == 0.2 for case in CASES if case.num_classes == 1203)


def test_one_object_has_few_detections_left():
    case = dataclasses.replace(QUICK_CASES[0], num_objects=1)
    found = detections(fast_rcnn_inference_topk, *predictions(case))
    assert 0 < len(found[0]) < 300 < case.num_proposals * case.classes_per_proposal


@pytest.mark.parametrize("case", QUICK_CASES)
def test_as_many_candidates_as_said(case):
    boxes, scores = predictions(case)
    assert boxes.shape == (case.num_proposals, case.num_classes * 4)
    assert scores.shape == (case.num_proposals, case.num_classes + 1)
    is_candidate = scores > SCORE_THRESH
    assert (is_candidate.sum(dim=1) == case.classes_per_proposal).all()
    assert not is_candidate[:, -1].any()
    candidates = scores[is_candidate]
    assert len(candidates.unique()) == len(candidates)  # the order of equal scores is arbitrary
    assert candidates.max() < 1


def test_differences_are_seen(monkeypatch):
    boxes, scores = predictions(QUICK_CASES[0])
    found = detections(fast_rcnn_inference_topk, boxes, scores)
    assert are_equal(found, detections(fast_rcnn_inference_topk, boxes, scores))
    for changed in ((boxes + 1, scores), (boxes, scores * 0.9)):
        assert not are_equal(found, detections(fast_rcnn_inference_topk, *changed))
    monkeypatch.setattr(post_processing, "NMS_THRESH", 0.3)
    assert not are_equal(found, detections(fast_rcnn_inference_topk, boxes, scores))
    assert not are_equal(found, (found[0], found[1] + 1))
