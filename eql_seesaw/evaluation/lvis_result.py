"""LVIS's numbers for one set of detections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.frequency_groups import GROUP_NAMES


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
    def from_official(
        cls,
        official: Mapping[str, float],
        precision: np.ndarray,
        recall: np.ndarray,
        categories: Sequence[Mapping[str, Any]],
    ) -> "LVISResult":
        """
        Args:
            official: the thirteen numbers by their official names, where AR and its kind end with
                "@" and the number of detections; -1 without ground truth.
            precision, recall: the arrays that both engines give.
            categories: of the ground truth, in ascending order of id.
        """
        numbers = {name.split("@")[0]: value for name, value in official.items()}
        groups = np.array([category["frequency"] for category in categories])
        for group in GROUP_NAMES:
            # By the rule of the official AR, which has no groups.
            recalls = recall[:, groups == group, 0]
            recalls = recalls[recalls > -1]
            numbers[f"AR{group}"] = recalls.mean() if recalls.size else -1
        return cls(
            metrics={
                name: None if value == -1 else float(value * 100) for name, value in numbers.items()
            },
            category_ap=_category_means(precision[..., 0], (0, 1)),
            category_ap50=_category_means(precision[:1, ..., 0], (0, 1)),
            category_ar=_category_means(recall[..., 0], (0,)),
            precision=precision,
            recall=recall,
        )


def _category_means(values, axes):
    """Means in percent over all axes but that of the categories; NaN where all are -1."""
    means = values.mean(axis=axes) * 100
    means[(values == -1).all(axis=axes)] = np.nan
    return means
