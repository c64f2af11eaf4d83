"""Outcome of the matching at an IoU of 0.5, detection by detection, and its calibration."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from ..atomic_write import atomic_file
from ..data.frequency_groups import GROUP_NAMES

# A detection is right if it overlaps an object of its class, not yet taken, at least this much.
IOU_THRESHOLD = 0.5
# Confusions are counted among detections with at least this score.
CONFUSION_SCORE = 0.3
# Ranges of scores for the calibration error.
NUM_BINS = 10


@dataclasses.dataclass(frozen=True)
class Matches:
    """
    Detections and objects of a dataset, matched as LVIS does at an IoU of 0.5, as columns.

    Only detections that count are here: the highest scores of each image, of classes that were
    verified in it. Classes are indices of the categories in ascending order of id.

    Attributes:
        image_ids: int64 (D,), sorted.
        classes: int32 (D,).
        scores: float64 (D,).
        annotation_ids: int64 (D,), the object that a detection found; 0 if it is wrong.
        ignored: bool (D,), neither right nor wrong: without an object, of a class that is not
            exhaustively annotated in the image; or on an object with ``ignore: 1``, which is not
            among the objects here.
        gt_image_ids, gt_classes, gt_annotation_ids: (G,), the objects, sorted by image.
        gt_scores: float64 (G,), the score of the detection that found it; NaN if it was missed.
        confusions: int64 (C, 3), sorted: an object's class, the other class of the detection that
            covers it best, and how often. Only detections with a score of at least 0.3, of
            classes that were verified in the image and are exhaustively annotated there.
    """

    image_ids: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    annotation_ids: np.ndarray
    ignored: np.ndarray
    gt_image_ids: np.ndarray
    gt_classes: np.ndarray
    gt_annotation_ids: np.ndarray
    gt_scores: np.ndarray
    confusions: np.ndarray

    def save(self, path: str | os.PathLike) -> None:
        """Write a compressed .npz file."""
        with atomic_file(path, "wb") as f:
            np.savez_compressed(f, **vars(self))

    @classmethod
    def load(cls, path: str) -> "Matches":
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as columns:
            return cls(**columns)


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


def calibration_errors(matches: Matches, groups: Sequence[str]) -> dict[str, float | None]:
    """
    Expected calibration errors (Guo et al., https://arxiv.org/abs/1706.04599, equation 3) in
    percent: the mean difference of score and share of right detections over the score ranges,
    weighted by their detections.

    Args:
        matches: of a dataset.
        groups: "r", "c" or "f" of each class.

    Returns:
        "ECE" of all detections that are right or wrong, and "ECEr", "ECEc", "ECEf" of those of
        rare, common and frequent classes; None without detections.
    """
    judged = ~matches.ignored
    scores, is_right = matches.scores[judged], matches.annotation_ids[judged] > 0
    group_of_detection = np.asarray(groups)[matches.classes[judged]]
    errors: dict[str, float | None] = {}
    for group in ("", *GROUP_NAMES):
        chosen = (group_of_detection == group) | (group == "")
        counts, mean_scores, accuracies = calibration_bins(scores[chosen], is_right[chosen])
        gaps = np.nan_to_num(np.abs(mean_scores - accuracies))
        error = float((gaps * counts).sum() / counts.sum() * 100) if counts.any() else None
        errors[f"ECE{group}"] = error
    return errors
