"""Numbers of one IoU type, boxes or masks, for the tables and charts of the report."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...data.frequency_groups import COMMON_MAX_IMAGES, GROUP_NAMES, RARE_MAX_IMAGES
from ..calibration import calibration_bins
from ..matches import CONFUSION_SCORE, Matches
from ..result import Result

# In the order in which they are shown.
IOU_TYPES = {"segm": "masks", "bbox": "boxes"}
# "all" is every class.
GROUPS = {**GROUP_NAMES, "all": "all"}
THRESHOLDS = np.linspace(0, 1, 101)
MATRIX_CLASSES = 20
# Upper ends of ranges of training images, two to a decade. The groups' ends are among them, so that
# no range holds classes of two groups.
RANGE_ENDS = sorted(
    {0, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000}
    | {RARE_MAX_IMAGES, COMMON_MAX_IMAGES}
)


@dataclasses.dataclass(frozen=True)
class Curve:
    """
    Precision and recall, over all detections and objects of a group, if only detections with at
    least a score are taken. Ignored detections count neither way.

    Attributes:
        precision, recall: float (101,) at ``THRESHOLDS``, from 0 to 1; NaN where there are no
            detections, or no objects.
        detections: int (101,), number of detections taken.
        num_objects: of the group.
    """

    precision: np.ndarray
    recall: np.ndarray
    detections: np.ndarray
    num_objects: int

    @property
    def f1(self) -> np.ndarray:
        """Float (101,); 0 where precision or recall are NaN, or both are 0."""
        with np.errstate(invalid="ignore"):
            return np.nan_to_num(2 * self.precision * self.recall / (self.precision + self.recall))


@dataclasses.dataclass(frozen=True)
class Calibration:
    """
    Scores of a group's detections and how many of them are right, in ten score ranges.

    Attributes:
        counts: int (10,), detections in each range.
        scores, accuracies: float (10,), their mean score, and the share of them that is right; NaN
            where there are none.
        ece: calibration error in percent; None without detections.
    """

    counts: np.ndarray
    scores: np.ndarray
    accuracies: np.ndarray
    ece: float | None


@dataclasses.dataclass(frozen=True)
class Numbers:
    """
    Numbers of one evaluation, and AP of possibly another, of one IoU type.

    Attributes:
        iou_type: "segm" or "bbox".
        name: "masks" or "boxes".
        score_threshold: from which detections are drawn and counted in single numbers.
        categories: of ``Result``.
        ap, other_ap: of each class in percent, None without ground truth; ``other_ap`` is of the
            other evaluation, and None without one.
        ap_ranges: of :func:`mean_ap_by_range`.
        curves: {"r", "c", "f" and "all": Curve}, of groups with objects.
        calibrations: {"r", "c", "f" and "all": Calibration}.
        precision, recall: float (K,), of :func:`class_precision_recall` at the score threshold.
        confusions: of ``Matches``, most frequent first.
        confused_classes: classes of the most frequent confusions, at most 20.
        confusion_matrix: int (n, n), of :func:`confusion_matrix` among ``confused_classes``.
    """

    iou_type: str
    name: str
    score_threshold: float
    categories: list[dict[str, Any]]
    ap: list[float | None]
    other_ap: list[float | None] | None
    ap_ranges: list[tuple[int, int, float, int]]
    curves: dict[str, Curve]
    calibrations: dict[str, Calibration]
    precision: np.ndarray
    recall: np.ndarray
    confusions: np.ndarray
    confused_classes: list[int]
    confusion_matrix: np.ndarray

    @classmethod
    def of(
        cls, result: Result, other: Result | None, iou_type: str, score_threshold: float
    ) -> "Numbers":
        matches, metrics = result.matches[iou_type], result.metrics[iou_type]
        groups = result.groups
        ap = class_metric(result, iou_type, "AP")
        train_images = [category["train_images"] for category in result.categories]
        precision, recall = class_precision_recall(matches, len(groups), score_threshold)
        confusions = matches.confusions[np.argsort(-matches.confusions[:, 2], kind="stable")]
        classes = most_confused_classes(confusions)
        return cls(
            iou_type,
            IOU_TYPES[iou_type],
            score_threshold,
            result.categories,
            ap,
            None if other is None else class_metric(other, iou_type, "AP"),
            mean_ap_by_range(train_images, ap),
            precision_recall_curves(matches, groups),
            _calibrations(matches, groups, metrics),
            precision,
            recall,
            confusions,
            classes,
            confusion_matrix(matches, classes),
        )


def class_metric(result: Result, iou_type: str, metric: str) -> list[float | None]:
    """A metric of each class, in percent, or None."""
    return [category.get(iou_type, {}).get(metric) for category in result.categories]


def mean_ap_by_range(
    train_images: Sequence[int | None], ap: Sequence[float | None]
) -> list[tuple[int, int, float, int]]:
    """
    Args:
        train_images: number of training images of each class, None where unknown.
        ap: of each class, in percent, None without ground truth.

    Returns:
        (first, last, mean AP, classes) of each range of training images that holds classes, both
        ends belonging to it.
    """
    known = [
        (n, value) for n, value in zip(train_images, ap, strict=True) if None not in (n, value)
    ]
    counts = np.array([n for n, _ in known])
    values = np.array([value for _, value in known])
    index = np.searchsorted(RANGE_ENDS, counts)
    ranges = []
    for i in np.unique(index):
        chosen = index == i
        first = RANGE_ENDS[i - 1] + 1 if i else 0
        last = RANGE_ENDS[i] if i < len(RANGE_ENDS) else int(counts.max())
        ranges.append((first, last, float(values[chosen].mean()), int(chosen.sum())))
    return ranges


def precision_recall_curves(matches: Matches, groups: Sequence[str]) -> dict[str, Curve]:
    """
    Args:
        matches: of a dataset.
        groups: "r", "c" or "f" of each class.

    Returns:
        Curves of "r", "c", "f" and "all", as far as they have objects.
    """
    group_of_object = np.asarray(groups)[matches.gt_classes]
    curves = {}
    for group, (scores, is_right) in _judged(matches, groups).items():
        gt_scores = matches.gt_scores[(group_of_object == group) | (group == "all")]
        if len(gt_scores):
            detections = _at_least(scores)
            with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
                precision = _at_least(scores[is_right]) / detections
            recall = _at_least(gt_scores[~np.isnan(gt_scores)]) / len(gt_scores)
            curves[group] = Curve(precision, recall, detections, len(gt_scores))
    return curves


def class_precision_recall(
    matches: Matches, num_classes: int, score_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """
    Returns:
        Precision and recall of each class, (K,) each, among detections with at least the score;
        NaN where there are no detections, or no objects.
    """

    def count(classes):
        return np.bincount(classes, minlength=num_classes)

    taken = ~matches.ignored & (matches.scores >= score_threshold)
    right = count(matches.classes[taken & (matches.annotation_ids > 0)])
    found = count(matches.gt_classes[matches.gt_scores >= score_threshold])
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        return right / count(matches.classes[taken]), found / count(matches.gt_classes)


def most_confused_classes(confusions: np.ndarray, num_classes: int = MATRIX_CLASSES) -> list[int]:
    """Classes of the most frequent pairs, in their order."""
    chosen: list[int] = []
    for gt_class, other, _ in confusions.tolist():
        missing = [k for k in (gt_class, other) if k not in chosen]
        if len(chosen) + len(missing) > num_classes:
            break
        chosen += missing
    return chosen


def confusion_matrix(matches: Matches, classes: Sequence[int]) -> np.ndarray:
    """
    (n, n) counts among ``classes``: objects of the row's class that a detection of the column's
    class covers best; on the diagonal, objects that a detection of their own class found. Scores
    are at least 0.3.
    """
    index = {k: i for i, k in enumerate(classes)}
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    for gt_class, other, count in matches.confusions.tolist():
        if gt_class in index and other in index:
            matrix[index[gt_class], index[other]] = count
    found = matches.gt_classes[matches.gt_scores >= CONFUSION_SCORE]
    counts = np.bincount(found, minlength=max(classes, default=0) + 1)
    matrix[np.diag_indices(len(classes))] = counts[list(classes)]
    return matrix


def _calibrations(matches, groups, metrics):
    calibrations = {}
    for group, (scores, is_right) in _judged(matches, groups).items():
        ece = metrics.get("ECE" if group == "all" else f"ECE{group}")
        calibrations[group] = Calibration(*calibration_bins(scores, is_right), ece)
    return calibrations


def _judged(matches, groups):
    """{group: (scores, is_right)} of the detections that are right or wrong."""
    judged = ~matches.ignored
    scores, is_right = matches.scores[judged], matches.annotation_ids[judged] > 0
    group_of_detection = np.asarray(groups)[matches.classes[judged]]
    chosen = {group: (group_of_detection == group) | (group == "all") for group in GROUPS}
    return {group: (scores[rows], is_right[rows]) for group, rows in chosen.items()}


def _at_least(scores):
    """Number of scores that are at least each of the thresholds, int (101,)."""
    return len(scores) - np.searchsorted(np.sort(scores), THRESHOLDS, side="left")
