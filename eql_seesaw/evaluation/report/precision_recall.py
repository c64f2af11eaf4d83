"""Precision and recall at score thresholds, by group and by class."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...data.frequency_groups import GROUP_NAMES
from ..matches import Matches

THRESHOLDS = np.linspace(0, 1, 101)
# The precision of fewer detections than this is not drawn.
MIN_DETECTIONS = 5


def precision_recall_curves(
    matches: Matches, groups: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
    """
    Precision and recall, over all detections and objects of a group, if only detections with at
    least a score are taken. Ignored detections count neither way.

    Args:
        matches: of a dataset.
        groups: "r", "c" or "f" of each class.

    Returns:
        For "all", "r", "c" and "f": "precision" and "recall", (101,) at ``THRESHOLDS``, from 0 to
        1; "detections", (101,), how many are taken; "objects", their number. NaN where there are
        no detections, or no objects.
    """
    group_of_class = np.asarray(groups)
    judged = ~matches.ignored
    scores, is_right = matches.scores[judged], matches.annotation_ids[judged] > 0
    group_of_detection = group_of_class[matches.classes[judged]]
    group_of_object = group_of_class[matches.gt_classes]
    curves = {}
    for group in ("all", *GROUP_NAMES):
        chosen = np.ones(len(scores), bool) if group == "all" else group_of_detection == group
        chosen_objects = group_of_object == group if group != "all" else slice(None)
        gt_scores = matches.gt_scores[chosen_objects]
        right = _at_least(scores[chosen & is_right])
        taken = _at_least(scores[chosen])
        found = _at_least(gt_scores[~np.isnan(gt_scores)])
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
            curves[group] = {
                "precision": right / taken,
                "recall": found / np.float64(len(gt_scores)),
                "detections": taken,
                "objects": len(gt_scores),
            }
    return curves


def drawn_precision(curve: dict[str, np.ndarray]) -> np.ndarray:
    """(101,) precision of a group's curve, NaN where it is of too few detections."""
    return np.where(curve["detections"] >= MIN_DETECTIONS, curve["precision"], np.nan)


def operating_points(
    curves: dict[str, dict[str, np.ndarray]], score_threshold: float
) -> list[dict[str, Any]]:
    """
    Args:
        curves: of :func:`precision_recall_curves`.
        score_threshold: from 0 to 1, taken to two decimals.

    Returns:
        For "all" and each group with objects: "group", "objects", and two points, "given" at the
        score threshold and "best" at the one of highest F1, each with "threshold", "detections",
        "precision", "recall" and "f1", or None where they are undefined.
    """
    rows = []
    for group, curve in curves.items():
        if curve["objects"]:
            precision, recall = curve["precision"], curve["recall"]
            with np.errstate(invalid="ignore"):
                f1 = np.nan_to_num(2 * precision * recall / (precision + recall))
            given = int(round(score_threshold * (len(THRESHOLDS) - 1)))
            points = {
                name: {
                    "threshold": THRESHOLDS[i],
                    "detections": int(curve["detections"][i]),
                    "precision": _or_none(precision[i]),
                    "recall": _or_none(recall[i]),
                    "f1": f1[i],
                }
                for name, i in (("given", given), ("best", int(f1.argmax())))
            }
            rows.append({"group": group, "objects": curve["objects"], **points})
    return rows


def class_precision_recall(
    matches: Matches, num_classes: int, score_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """
    Returns:
        Precision and recall of each class, (K,) each, among detections with at least the score;
        NaN where there are no detections, or no objects.
    """
    taken = ~matches.ignored & (matches.scores >= score_threshold)
    right = np.bincount(
        matches.classes[taken & (matches.annotation_ids > 0)], minlength=num_classes
    )
    num_taken = np.bincount(matches.classes[taken], minlength=num_classes)
    found = np.bincount(
        matches.gt_classes[matches.gt_scores >= score_threshold], minlength=num_classes
    )
    num_objects = np.bincount(matches.gt_classes, minlength=num_classes)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        return right / num_taken, found / num_objects


def _at_least(scores):
    """How many scores are at least each of the thresholds, (101,) float."""
    below = np.searchsorted(np.sort(scores), THRESHOLDS, side="left")
    return (len(scores) - below).astype(np.float64)


def _or_none(value):
    return None if np.isnan(value) else float(value)
