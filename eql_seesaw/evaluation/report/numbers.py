"""Numbers of one IoU type, boxes or masks, for the tables and charts of the report."""

from collections.abc import Sequence

import numpy as np

from ...data.frequency_groups import COMMON_MAX_IMAGES, GROUP_NAMES, RARE_MAX_IMAGES
from ..matches import CONFUSION_SCORE, Matches, calibration_bins
from ..result import Result

# In the order in which they are shown.
IOU_TYPES = {"segm": "masks", "bbox": "boxes"}
# "all" is every class.
GROUPS = {**GROUP_NAMES, "all": "all"}
THRESHOLDS = np.linspace(0, 1, 101)
MATRIX_CLASSES = 20
CONFUSIONS_PER_CLASS = 5
# Classes that gain, or lose, most.
NUM_CHANGES = 8
# Upper ends of ranges of training images, two to a decade. The groups' ends are among them, so that
# no range holds classes of two groups.
RANGE_ENDS = sorted(
    {0, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000}
    | {RARE_MAX_IMAGES, COMMON_MAX_IMAGES}
)


class Numbers:
    """
    Numbers of one evaluation, and AP of possibly another, of one IoU type.

    Attributes:
        iou_type, name: "segm" and "masks", or "bbox" and "boxes".
        score_threshold: from which detections are drawn and counted in single numbers.
        categories: of ``Result``.
        ap, other_ap: of each class in percent, None without ground truth; ``other_ap`` is of the
            other evaluation, and None without one.
        ap_ranges: of :func:`mean_ap_by_range`.
        curves: {"r", "c", "f" and "all": Curve}, of groups with objects.
        calibrations: {"r", "c", "f" and "all": (counts, scores, accuracies, ECE)}, of
            ``calibration_bins``, and the error in percent, None without detections.
        tally: of :func:`tally_images` at the score threshold.
        precision, recall: float (K,), of each class at the score threshold, in percent; NaN without
            detections, or without objects.
        confusions: of ``Matches``, most frequent first.
        confused_classes: classes of the most frequent confusions, at most 20.
        confusion_matrix: int (n, n), of :func:`confusion_matrix` among ``confused_classes``.
    """

    def __init__(self, result: Result, other: Result | None, iou_type: str, score_threshold: float):
        matches, metrics = result.matches[iou_type], result.metrics[iou_type]
        num_classes = len(result.categories)
        self.iou_type, self.name = iou_type, IOU_TYPES[iou_type]
        self.score_threshold = score_threshold
        self.categories = result.categories
        self.ap = class_metric(result, iou_type, "AP")
        self.other_ap = None if other is None else class_metric(other, iou_type, "AP")
        train_images = [category["train_images"] for category in result.categories]
        self.ap_ranges = mean_ap_by_range(train_images, self.ap)

        judged = ~matches.ignored
        scores, is_right = matches.scores[judged], matches.annotation_ids[judged] > 0
        self.curves, self.calibrations = {}, {}
        for group in GROUPS:
            is_class = (np.asarray(result.groups) == group) | (group == "all")
            chosen = is_class[matches.classes[judged]]
            bins = calibration_bins(scores[chosen], is_right[chosen])
            ece = metrics.get("ECE" if group == "all" else f"ECE{group}")
            self.calibrations[group] = (*bins, ece)
            gt_scores = matches.gt_scores[is_class[matches.gt_classes]]
            if len(gt_scores):
                self.curves[group] = Curve(scores[chosen], is_right[chosen], gt_scores)

        self.tally = tally_images(matches, score_threshold)
        right, wrong, missed = (
            np.bincount(self.tally[:, 0], counts, num_classes) for counts in self.tally.T[2:]
        )
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
            self.precision = 100 * (right / (right + wrong))
            self.recall = 100 * (right / (right + missed))
        order = np.argsort(-matches.confusions[:, 2], kind="stable")
        self.confusions = matches.confusions[order]
        classes = dict.fromkeys(self.confusions[:, :2].flatten().tolist())
        self.confused_classes = list(classes)[:MATRIX_CLASSES]
        self.confusion_matrix = confusion_matrix(matches, self.confused_classes, num_classes)

    def confusions_of(self, k: int) -> list[list[int]]:
        """Most frequent confusions of a class's objects."""
        return self.confusions[self.confusions[:, 0] == k][:CONFUSIONS_PER_CLASS].tolist()

    def changed_classes(self) -> dict[str, list[int]]:
        """Classes that gain, and lose, most AP against the other run."""
        assert self.other_ap is not None, "there is another run"
        pairs = enumerate(zip(self.ap, self.other_ap, strict=True))
        changes = sorted(
            (ap - other, k) for k, (ap, other) in pairs if ap is not None and other is not None
        )
        losses = [k for change, k in changes if change < 0]
        gains = [k for change, k in reversed(changes) if change > 0]
        return {"gains": gains[:NUM_CHANGES], "losses": losses[:NUM_CHANGES]}


class Curve:
    """
    Precision and recall, over all detections and objects of a group, if only detections with at
    least a score are taken.

    Attributes:
        num_objects: of the group.
        detections: int (101,), number of detections taken, at each of ``THRESHOLDS``.
        precision, recall: float (101,), from 0 to 1; precision is NaN without detections.
        f1: float (101,), 0 without detections.
    """

    def __init__(self, scores: np.ndarray, is_right: np.ndarray, gt_scores: np.ndarray):
        """
        Args:
            scores: float (D,), of the detections that are right or wrong.
            is_right: bool (D,).
            gt_scores: float (G,), of the objects, at least one, as in ``Matches``.
        """
        self.num_objects = len(gt_scores)
        self.detections = _at_least(scores)
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
            self.precision = _at_least(scores[is_right]) / self.detections
            self.recall = _at_least(gt_scores[~np.isnan(gt_scores)]) / self.num_objects
            product, total = self.precision * self.recall, self.precision + self.recall
            self.f1 = np.nan_to_num(2 * product / total)


def _at_least(scores):
    """Number of scores that are at least each of the thresholds, int (101,)."""
    return len(scores) - np.searchsorted(np.sort(scores), THRESHOLDS)


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
    known = [pair for pair in zip(train_images, ap, strict=True) if None not in pair]
    counts, values = np.array([n for n, _ in known]), np.array([value for _, value in known])
    index = np.searchsorted(RANGE_ENDS, counts)
    ranges = []
    for i in np.unique(index):
        chosen = index == i
        first = RANGE_ENDS[i - 1] + 1 if i else 0
        last = RANGE_ENDS[i] if i < len(RANGE_ENDS) else int(counts.max())
        ranges.append((first, last, float(values[chosen].mean()), int(chosen.sum())))
    return ranges


def tally_images(matches: Matches, score_threshold: float) -> np.ndarray:
    """
    Count right and wrong detections with at least the score, and objects without one.

    Returns:
        int (N, 5), sorted: class, image id, right, wrong, missed, of each class in each image where
        it has an object, or a detection that is right or wrong.
    """
    taken = ~matches.ignored & (matches.scores >= score_threshold)
    is_right = matches.annotation_ids[taken] > 0
    is_missed = ~(matches.gt_scores >= score_threshold)
    detections = np.stack([matches.classes[taken], matches.image_ids[taken]], axis=1)
    objects = np.stack([matches.gt_classes, matches.gt_image_ids], axis=1)
    pairs, index = np.unique(np.concatenate([detections, objects]), axis=0, return_inverse=True)
    of_detections, of_objects = np.split(index.reshape(-1), [len(detections)])
    kinds = of_detections[is_right], of_detections[~is_right], of_objects[is_missed]
    counts = [np.bincount(kind, minlength=len(pairs)) for kind in kinds]
    return np.column_stack([pairs, *counts])


def confusion_matrix(matches: Matches, classes: Sequence[int], num_classes: int) -> np.ndarray:
    """
    (n, n) counts among ``classes``: objects of the row's class that a detection of the column's
    class covers best; on the diagonal, objects that a detection of their own class found. Scores
    are at least 0.3.
    """
    found = matches.gt_classes[matches.gt_scores >= CONFUSION_SCORE]
    matrix = np.diag(np.bincount(found, minlength=num_classes)[classes])
    index = {k: i for i, k in enumerate(classes)}
    for gt_class, other, count in matches.confusions.tolist():
        if gt_class in index and other in index:
            matrix[index[gt_class], index[other]] = count
    return matrix
