"""LVIS's numbers for one set of detections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.frequency_groups import GROUP_NAMES

# Among the ten IoU thresholds, and the areas.
IOU_50, IOU_75 = 0, 5
AREAS = {"": 0, "s": 1, "m": 2, "l": 3}


@dataclass(frozen=True)
class LVISResult:
    """
    LVIS metrics, in percent.

    Attributes:
        metrics: AP, AP50, AP75, APs, APm, APl, APr, APc, APf, AR, ARs, ARm, ARl: the official
            thirteen; and ARr, ARc, ARf. None where there is no ground truth (officially -1).
        category_ap: float64 (K,), AP of each category in ascending order of id; NaN for a
            category without ground truth, 0 for one that has some and is never predicted.
        category_ap50, category_ar: likewise, AP at an IoU of 0.5, and average recall.
        precision: float64 (10 IoU thresholds, 101 recalls, K, 4 areas), as officially: not in
            percent, -1 without ground truth.
        recall: float64 (10 IoU thresholds, K, 4 areas), likewise.
    """

    metrics: dict[str, float | None]
    category_ap: np.ndarray
    category_ap50: np.ndarray
    category_ar: np.ndarray
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
        metrics = average_precisions(precision, groups)
        metrics.update({f"AR{area}": _mean(recall[..., a]) for area, a in AREAS.items()})
        # The official AR has no groups.
        metrics.update({f"AR{g}": _mean(recall[:, groups == g, 0]) for g in GROUP_NAMES})
        return cls(
            metrics=metrics,
            category_ap=_category_means(precision[..., 0], (0, 1)),
            category_ap50=_category_means(precision[:1, ..., 0], (0, 1)),
            category_ar=_category_means(recall[..., 0], (0,)),
            precision=precision,
            recall=recall,
        )


def average_precisions(precision: np.ndarray, groups: np.ndarray) -> dict[str, float | None]:
    """
    AP, AP50, AP75, APs, APm, APl, APr, APc, APf in percent; None where there is no ground truth.

    Args:
        precision: as of :class:`LVISResult`.
        groups: (K,) "r", "c" or "f" of each class.
    """
    means = {
        "AP": _mean(precision[..., 0]),
        "AP50": _mean(precision[IOU_50, ..., 0]),
        "AP75": _mean(precision[IOU_75, ..., 0]),
    }
    means.update({f"AP{area}": _mean(precision[..., a]) for area, a in AREAS.items() if area})
    means.update({f"AP{g}": _mean(precision[:, :, groups == g, 0]) for g in GROUP_NAMES})
    return means


def _mean(values):
    """In percent, over what has ground truth; None if nothing has."""
    values = values[values > -1]
    return float(values.mean() * 100) if values.size else None


def _category_means(values, axes):
    """Means in percent over all axes but that of the categories; NaN where all are -1."""
    means = values.mean(axis=axes) * 100
    means[(values == -1).all(axis=axes)] = np.nan
    return means
