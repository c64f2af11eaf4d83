"""The tables of the page, as its template reads them."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...data.frequency_groups import GROUP_NAMES, frequency_groups
from ..result import Result
from .numbers import THRESHOLDS, Curve, Numbers, class_metric

ROW_NAMES = {
    "segm": "masks",
    "bbox": "boxes",
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
# Classes that gain, or lose, most.
NUM_CHANGES = 8


def decimal(value: float | None) -> str:
    return "n/a" if value is None or math.isnan(value) else f"{value:.1f}"


def signed(value: float | None) -> str:
    if value is None:
        return "n/a"
    # A true minus sign is as wide as the plus.
    text = f"{value:+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text


def whole(value: int | None) -> str:
    return "n/a" if value is None else f"{value:,}"


def difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def metric_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """
    Rows of the table of metrics of one or two results: "name", "run" (0, 1, or None for their
    difference) and "values", in percent, in the order of ``METRICS``.
    """
    names = [metric for metrics in METRICS.values() for metric in metrics]
    rows = []
    for key, name in ROW_NAMES.items():
        if key not in results[0].metrics:
            continue
        metrics = [result.metrics[key] for result in results if key in result.metrics]
        values = [[of_run.get(metric) for metric in names] for of_run in metrics]
        for i, of_run in enumerate(values):
            rows.append({"name": name, "run": i, "values": list(map(decimal, of_run))})
        if len(values) == 2:
            changes = [signed(difference(a, b)) for a, b in zip(*values, strict=True)]
            rows.append({"name": name, "run": None, "values": changes})
    return rows


def run_names(folders: Sequence[Path]) -> list[str]:
    """
    Args:
        folders: of one or two evaluations.

    Returns:
        Of ``<run>/inference/<dataset>`` that is ``<run>``, or else the folder's own name; of two,
        the last parts of their paths, as many as tell them apart. Folders of tables name the
        row's overrides after commas; those that both have are left out.
    """
    folders = [folder.resolve() for folder in folders]
    runs = [f.parents[1] if f.parent.name in ("inference", "inference_TTA") else f for f in folders]
    if len(set(runs)) < len(set(folders)):
        runs = folders
    num_parts = 1
    while len({run.parts[-num_parts:] for run in runs}) < len(set(runs)):
        num_parts += 1
    names = [run.parts[-num_parts:] for run in runs]
    overrides = [{part for name in parts for part in name.split(",")[1:]} for parts in names]
    shared = set.intersection(*overrides) if len(set(runs)) == 2 else set()
    return ["/".join(_without(part, shared) for part in parts) for parts in names]


def _without(part, overrides):
    return ",".join([override for override in part.split(",") if override not in overrides])


@dataclasses.dataclass(frozen=True)
class Column:
    """
    A column of the table of categories.

    Attributes:
        title: its heading.
        cells: text of each class.
        iou_type: "segm" or "bbox" of numbers that are shown with those of this type; "" of others.
    """

    title: str
    cells: list[str]
    iou_type: str = ""


def category_columns(result: Result, numbers: Sequence[Numbers], other_name: str) -> list[Column]:
    """Columns behind names and groups; ``other_name`` is the name of the other run, if any."""
    categories = result.categories
    columns = [
        Column("Training images", [whole(category["train_images"]) for category in categories]),
        Column("Objects", [whole(category["num_objects"]) for category in categories]),
    ]
    columns += [Column(f"AP {of.name}", list(map(decimal, of.ap))) for of in numbers]
    for of in numbers:
        if of.other_ap is not None:
            changes = [signed(difference(a, b)) for a, b in zip(of.ap, of.other_ap, strict=True)]
            other_ap = list(map(decimal, of.other_ap))
            columns.append(Column(f"AP {of.name}, {other_name}", other_ap, of.iou_type))
            columns.append(Column("Difference", changes, of.iou_type))
        more = {
            "AP50": class_metric(result, of.iou_type, "AP50"),
            "AR": class_metric(result, of.iou_type, "AR"),
            "Precision": (100 * of.precision).tolist(),
            "Recall": (100 * of.recall).tolist(),
        }
        columns += [Column(title, list(map(decimal, more[title])), of.iou_type) for title in more]
    return columns


def operating_point(curve: Curve, score_threshold: float) -> dict[str, str]:
    """Text of a group's numbers at a score threshold, which is taken to two decimals."""
    i = round(score_threshold * (len(THRESHOLDS) - 1))
    values = {"precision": curve.precision, "recall": curve.recall, "f1": curve.f1}
    return {
        "threshold": f"{THRESHOLDS[i]:.2f}",
        "detections": whole(int(curve.detections[i])),
        **{name: decimal(100 * of_curve[i]) for name, of_curve in values.items()},
    }


def changed_classes(numbers: Numbers) -> dict[str, list[tuple[int, float]]]:
    """Classes that gain, and lose, most AP against the other run, each with the difference."""
    assert numbers.other_ap is not None, "there is another run"
    changes = [difference(a, b) for a, b in zip(numbers.ap, numbers.other_ap, strict=True)]
    order = sorted((change, k) for k, change in enumerate(changes) if change)
    losses = [(k, change) for change, k in order if change < 0]
    gains = [(k, change) for change, k in reversed(order) if change > 0]
    return {"gains": gains[:NUM_CHANGES], "losses": losses[:NUM_CHANGES]}


def group_facts(result: Result, numbers: Numbers) -> dict[str, Any]:
    """Counts that the page's text names."""
    known = [c for c in result.categories if c["train_images"] is not None]
    by_count = frequency_groups([c["train_images"] for c in known])
    differ = sum(c["group"] != group for c, group in zip(known, by_count, strict=True))
    return {
        "group_counts": {group: result.groups.count(group) for group in GROUP_NAMES},
        "num_without_ground_truth": numbers.ap.count(None),
        "num_known_train_images": len(known),
        "num_other_groups": differ,
    }
