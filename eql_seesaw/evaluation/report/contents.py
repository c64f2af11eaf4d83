"""The numbers that the page shows, as its scripts and its template read them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...data.frequency_groups import (
    COMMON_MAX_IMAGES,
    GROUP_NAMES,
    RARE_MAX_IMAGES,
    frequency_groups,
)
from ..calibration import calibration_bins
from ..matches import Matches
from .ap_by_range import mean_ap_by_range
from .confusions import confusion_matrix, most_confused_classes, top_pairs
from .precision_recall import (
    THRESHOLDS,
    class_precision_recall,
    drawn_precision,
    operating_points,
    precision_recall_curves,
)
from .run import TASK_NAMES, Run

ROW_NAMES = {
    **TASK_NAMES,
    "segm_fixed": "masks, Fixed AP",
    "bbox_fixed": "boxes, Fixed AP",
    "boundary": "boundaries",
}
# Heading of columns, then metric and the column's own heading.
METRICS = {
    "AP": {
        "AP": "all",
        "APr": "rare",
        "APc": "common",
        "APf": "freq.",
        "AP50": "50",
        "AP75": "75",
        "APs": "small",
        "APm": "medium",
        "APl": "large",
    },
    "AR": {"AR": "all", "ARr": "rare", "ARc": "common", "ARf": "freq."},
    "ECE": {"ECE": "all", "ECEr": "rare", "ECEc": "common", "ECEf": "freq."},
}


def metric_rows(run: Run, other: Run | None) -> list[dict[str, Any]]:
    """
    Rows of the table of metrics: "name", "run" (0, 1, or None for their difference) and "values",
    in percent, or None, in the order of ``METRICS``.
    """
    names = [metric for metrics in METRICS.values() for metric in metrics]
    rows = []
    for task, name in ROW_NAMES.items():
        metrics = [r.evaluation.metrics.get(task) for r in (run, other) if r is not None]
        values = [[m.get(metric) for metric in names] for m in metrics if m is not None]
        if metrics[0] is None:
            continue
        rows += [{"name": name, "run": i, "values": v} for i, v in enumerate(values)]
        if len(values) == 2:
            difference = [_difference(a, b) for a, b in zip(*values, strict=True)]
            rows.append({"name": name, "run": None, "values": difference})
    return rows


def run_names(run: Run, other: Run | None) -> list[str]:
    """
    Of one or two runs: the last parts of their folders, as many as tell them apart. Folders of
    tables name the row's overrides after commas; those that both have are left out.
    """
    if other is None:
        return [run.run_folder.name]
    folders = [run.run_folder, other.run_folder]
    if folders[0] == folders[1]:
        folders = [run.folder.resolve(), other.folder.resolve()]
    most = max(len(folder.parts) for folder in folders)
    for num_parts in range(1, most + 1):
        first, second = (folder.parts[-num_parts:] for folder in folders)
        if first != second:
            return [_without_shared(first, second), _without_shared(second, first)]
    return [run.run_folder.name] * 2  # compared with itself


def _without_shared(parts: Sequence[str], others: Sequence[str]) -> str:
    shared = {override for part in others for override in part.split(",")[1:]}
    names = []
    for part in parts:
        config, *overrides = part.split(",")
        names.append(",".join([config, *(own for own in overrides if own not in shared)]))
    return str(Path(*names))


def points_by_task(run: Run, score_threshold: float) -> dict[str, list]:
    """{"segm": rows of ``operating_points``, ...}"""
    return {
        task: operating_points(precision_recall_curves(matches, run.groups), score_threshold)
        for task, matches in run.matches.items()
    }


def page_data(run: Run, other: Run | None, score_threshold: float) -> dict[str, Any]:
    """What the scripts of the page read; JSON, without NaN."""
    categories = run.categories
    names = run_names(run, other)
    data: dict[str, Any] = {
        "run": names[0],
        "other": None if other is None else names[1],
        "threshold": score_threshold,
        "groups": GROUP_NAMES,
        "groupEnds": [RARE_MAX_IMAGES, COMMON_MAX_IMAGES],
        "tasks": {task: TASK_NAMES[task] for task in run.tasks},
        "ids": [category["id"] for category in categories],
        "names": [category["name"] for category in categories],
        "group": run.groups,
        "trainImages": [category["train_images"] for category in categories],
        "objects": [category["num_objects"] for category in categories],
    }
    for task, matches in run.matches.items():
        data[task] = _task_data(run, task, matches, score_threshold)
        if other is not None:
            data[task]["otherAP"] = _column(other, task, "AP")
    return data


def captions(run: Run) -> Mapping[str, Any]:
    """Counts that the page's text names."""
    counts = {group: run.groups.count(group) for group in GROUP_NAMES}
    task = run.tasks[0]
    absent = sum(category.get(task, {}).get("AP") is None for category in run.categories)
    known = [c for c in run.categories if c["train_images"] is not None]
    by_count = frequency_groups([c["train_images"] for c in known])
    differ = sum(c["group"] != group for c, group in zip(known, by_count, strict=True))
    return {
        "group_counts": counts,
        "num_without_ground_truth": absent,
        "num_known_train_images": len(known),
        "num_other_groups": differ,
    }


def _task_data(run, task, matches, score_threshold):
    precision, recall = class_precision_recall(matches, len(run.categories), score_threshold)
    aps = _column(run, task, "AP")
    train_images = [category["train_images"] for category in run.categories]
    curves = precision_recall_curves(matches, run.groups)
    return {
        "AP": aps,
        "AP50": _column(run, task, "AP50"),
        "AR": _column(run, task, "AR"),
        "precision": _numbers(100 * precision, 1),
        "recall": _numbers(100 * recall, 1),
        "trend": [
            [first, last, round(ap, 2)]
            for first, last, ap, _ in mean_ap_by_range(train_images, aps)
        ],
        "thresholds": _numbers(THRESHOLDS, 2),
        "curves": {
            group: {
                "precision": _numbers(drawn_precision(curve), 4),
                "recall": _numbers(curve["recall"], 4),
            }
            for group, curve in curves.items()
        },
        "calibration": _calibration(matches, run.groups),
        "ece": {
            group: run.evaluation.metrics[task].get(metric)
            for group, metric in (("all", "ECE"), *((g, f"ECE{g}") for g in GROUP_NAMES))
        },
        "confusions": _confusions(matches),
    }


def _column(run, task, metric):
    """Percent of each class, or None."""
    values = [category.get(task, {}).get(metric) for category in run.categories]
    return [None if value is None else round(value, 2) for value in values]


def _calibration(matches: Matches, groups: Sequence[str]) -> dict[str, dict[str, list]]:
    judged = ~matches.ignored
    scores, is_right = matches.scores[judged], matches.annotation_ids[judged] > 0
    group_of_detection = np.asarray(groups)[matches.classes[judged]]
    calibration = {}
    for group in ("all", *GROUP_NAMES):
        chosen = np.ones(len(scores), bool) if group == "all" else group_of_detection == group
        counts, mean_scores, accuracies = calibration_bins(scores[chosen], is_right[chosen])
        calibration[group] = {
            "counts": counts.tolist(),
            "scores": _numbers(mean_scores, 4),
            "accuracies": _numbers(accuracies, 4),
        }
    return calibration


def _confusions(matches: Matches) -> dict[str, list]:
    classes = most_confused_classes(matches.confusions)
    return {
        "pairs": top_pairs(matches.confusions),
        "classes": classes,
        "matrix": confusion_matrix(matches, classes).tolist(),
    }


def _numbers(values: Iterable[float], digits: int) -> list[float | None]:
    return [None if math.isnan(x) else round(float(x), digits) for x in values]


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
