import numpy as np
import pytest

from eql_seesaw.evaluation.calibration import (
    calibration_bins,
    calibration_error,
    calibration_errors,
)
from eql_seesaw.evaluation.matches import Matches


def test_bins():
    scores = np.array([0.0, 0.09, 0.1, 0.55, 0.51, 1.0])
    is_right = np.array([False, True, True, False, False, True])
    counts, mean_scores, accuracies = calibration_bins(scores, is_right)
    assert counts.tolist() == [2, 1, 0, 0, 0, 2, 0, 0, 0, 1]
    assert mean_scores == pytest.approx(
        [0.045, 0.1, *[np.nan] * 3, 0.53, *[np.nan] * 3, 1], nan_ok=True
    )
    assert accuracies == pytest.approx([0.5, 1, *[np.nan] * 3, 0, *[np.nan] * 3, 1], nan_ok=True)


def test_error_is_the_weighted_gap():
    scores = np.array([0.25, 0.25, 0.75, 0.75])
    assert calibration_error(scores, np.array([True, False, True, True])) == pytest.approx(25)
    assert calibration_error(scores[:0], np.array([], dtype=bool)) is None


def test_groups_and_ignored_detections():
    nothing = np.empty(0)
    matches = Matches(
        image_ids=np.arange(4),
        classes=np.array([0, 0, 1, 1], dtype=np.int32),
        scores=np.array([0.5, 0.5, 1.0, 0.7]),
        annotation_ids=np.array([1, 0, 0, 0]),
        ignored=np.array([False, False, False, True]),
        gt_image_ids=nothing,
        gt_classes=nothing,
        gt_annotation_ids=nothing,
        gt_scores=nothing,
        confusions=np.empty((0, 3), np.int64),
    )
    errors = calibration_errors(matches, ["r", "f"])
    assert errors == {"ECE": pytest.approx(100 / 3), "ECEr": 0, "ECEc": None, "ECEf": 100}
