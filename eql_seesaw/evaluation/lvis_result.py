"""LVIS's numbers for one set of detections."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.frequency_groups import GROUP_NAMES

METRICS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"),
    *("AR", "ARs", "ARm", "ARl", "ARr", "ARc", "ARf"),
)
# All, small, medium and large, in pixels.
AREA_RANGES = np.array([(0, 1e5**2), (0, 32**2), (32**2, 96**2), (96**2, 1e5**2)])
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0, 1, 101)
IOU_50, IOU_75 = 0, 5  # among the thresholds


@dataclass(frozen=True)
class LVISResult:
    """
    LVIS metrics, in percent.

    Attributes:
        metrics: AP, AP50, AP75, APs, APm, APl, APr, APc, APf, AR, ARs, ARm, ARl: the official
            thirteen; and ARr, ARc, ARf. None where there is no ground truth (officially -1).
        of_categories: "AP", "AP50" and "AR", float64 (K,) each, of the categories in ascending
            order of id; NaN without ground truth, 0 for one that has some and is never predicted.
        precision: float64 (10 IoU thresholds, 101 recalls, K, 4 areas), as officially: not in
            percent, -1 without ground truth.
        recall: float64 (10 IoU thresholds, K, 4 areas), likewise.
    """

    metrics: dict[str, float | None]
    of_categories: dict[str, np.ndarray]
    precision: np.ndarray
    recall: np.ndarray

    @classmethod
    def from_arrays(
        cls, precision: np.ndarray, recall: np.ndarray, categories: Sequence[Mapping[str, Any]]
    ) -> "LVISResult":
        """
        The numbers as the official code makes them of its arrays, with the same roundings.

        Args:
            precision, recall: the attributes.
            categories: of the ground truth, in ascending order of id.
        """
        # Sums round differently in another order of the memory.
        precision, recall = np.ascontiguousarray(precision), np.ascontiguousarray(recall)
        groups = np.array([category["frequency"] for category in categories])
        areas = {"": 0, "s": 1, "m": 2, "l": 3}
        means = {f"AP{area}": _mean(precision[..., a]) for area, a in areas.items()}
        means["AP50"] = _mean(precision[IOU_50, ..., 0])
        means["AP75"] = _mean(precision[IOU_75, ..., 0])
        means.update({f"AR{area}": _mean(recall[..., a]) for area, a in areas.items()})
        for group in GROUP_NAMES:
            means[f"AP{group}"] = _mean(precision[:, :, groups == group, 0])
            # The official AR has no groups.
            means[f"AR{group}"] = _mean(recall[:, groups == group, 0])
        of_categories = {
            "AP": _category_means(precision[..., 0], (0, 1)),
            "AP50": _category_means(precision[:1, ..., 0], (0, 1)),
            "AR": _category_means(recall[..., 0], (0,)),
        }
        metrics = {name: means[name] for name in METRICS}
        return cls(metrics, of_categories, precision, recall)


def _mean(values):
    """In percent, over what has ground truth; None if nothing has."""
    values = values[values > -1]
    return float(values.mean() * 100) if values.size else None


def _category_means(values, axes):
    """Means in percent over all axes but that of the categories; NaN where all are -1."""
    means = values.mean(axis=axes) * 100
    means[(values == -1).all(axis=axes)] = np.nan
    return means


def precision_and_recall(
    flags_of_classes: Iterable[tuple[np.ndarray, np.ndarray]], num_objects: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """
    The official code's arrays.

    Args:
        flags_of_classes: for each class, right and wrong detections in descending order of score:
            two arrays of 0 and 1, (N, areas, IoU thresholds).
        num_objects: int64 (K, areas), to be found.

    Returns:
        ``LVISResult.precision`` and ``LVISResult.recall``.
    """
    num_classes, num_areas = num_objects.shape
    precision = -np.ones((len(IOU_THRESHOLDS), len(RECALL_THRESHOLDS), num_classes, num_areas))
    recall = -np.ones((len(IOU_THRESHOLDS), num_classes, num_areas))
    for k, (right, wrong) in enumerate(flags_of_classes):
        if not num_objects[k].any():
            continue
        right, wrong = right.transpose(1, 2, 0), wrong.transpose(1, 2, 0)
        num_right, num_wrong = (f.cumsum(axis=2, dtype=np.int64) for f in (right, wrong))
        # Precision is largest at right detections, so only they are looked at: the first, the
        # second, ... of each area and threshold. Recalls that are never reached have precision 0.
        area, iou, detection = right.nonzero()
        tp, fp = num_right[area, iou, detection], num_wrong[area, iou, detection]
        precisions = np.zeros((*right.shape[:2], num_objects[k].max()))
        precisions[area, iou, tp - 1] = tp / (fp + tp + np.spacing(1))
        precisions = np.maximum.accumulate(precisions[..., ::-1], axis=2)[..., ::-1]
        for a in np.flatnonzero(num_objects[k]):
            recalls = np.arange(num_objects[k, a] + 1) / num_objects[k, a]
            num_needed = np.searchsorted(recalls, RECALL_THRESHOLDS)
            precision[:, :, k, a] = precisions[a][:, np.maximum(num_needed, 1) - 1]
            recall[:, k, a] = recalls[right[a].sum(axis=1, dtype=np.int64)]
    return precision, recall
