"""Calibration: scores beside the share of detections that are right."""

from collections.abc import Sequence

import numpy as np

from ..data.frequency_groups import GROUP_NAMES
from .matches import Matches

NUM_BINS = 10


def calibration_bins(
    scores: np.ndarray, is_right: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Args:
        scores: float (D,) in [0, 1].
        is_right: bool (D,).

    Returns:
        For each of ten score ranges of equal width, (10,): detections in it (int64), their mean
        score, and the share of them that is right; NaN where there are none.
    """
    index = np.clip((scores * NUM_BINS).astype(np.int64), 0, NUM_BINS - 1)
    counts = np.bincount(index, minlength=NUM_BINS)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        mean_scores = np.bincount(index, scores, NUM_BINS) / counts
        accuracies = np.bincount(index, is_right, NUM_BINS) / counts
    return counts, mean_scores, accuracies


def calibration_error(scores: np.ndarray, is_right: np.ndarray) -> float | None:
    """
    Expected calibration error (Guo et al., https://arxiv.org/abs/1706.04599, equation 3) in
    percent: the mean difference of score and share of right detections over the score ranges,
    weighted by their detections. None without detections. Arguments as for
    :func:`calibration_bins`.
    """
    if not len(scores):
        return None
    counts, mean_scores, accuracies = calibration_bins(scores, is_right)
    gaps = np.nan_to_num(np.abs(mean_scores - accuracies))
    return float((gaps * counts).sum() / counts.sum() * 100)


def calibration_errors(matches: Matches, groups: Sequence[str]) -> dict[str, float | None]:
    """
    Args:
        matches: of a dataset.
        groups: "r", "c" or "f" of each class.

    Returns:
        "ECE" of all detections that are right or wrong, and "ECEr", "ECEc", "ECEf" of those of
        rare, common and frequent classes.
    """
    judged = ~matches.ignored
    scores, is_right = matches.scores[judged], matches.annotation_ids[judged] > 0
    group_of_detection = np.asarray(groups)[matches.classes[judged]]
    errors = {"ECE": calibration_error(scores, is_right)}
    for group in GROUP_NAMES:
        chosen = group_of_detection == group
        errors[f"ECE{group}"] = calibration_error(scores[chosen], is_right[chosen])
    return errors
