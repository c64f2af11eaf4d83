"""Texts and tables of the page, as its template reads them."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..result import Result, decimal
from .numbers import Numbers, class_metric

ROW_NAMES = {
    "segm": "masks",
    "bbox": "boxes",
    "segm_fixed": "masks, Fixed AP",
    "bbox_fixed": "boxes, Fixed AP",
    "segm_pool": "masks, AP-pool",
    "bbox_pool": "boxes, AP-pool",
    "boundary": "boundaries",
}
# Heading of columns, then metric and the column's own heading.
METRICS = {
    name: {name: "all", f"{name}r": "rare", f"{name}c": "common", f"{name}f": "freq."}
    for name in ("AP", "AR", "ECE")
}
METRICS["AP"] |= {"AP50": "50", "AP75": "75", "APs": "small", "APm": "medium", "APl": "large"}


def difference(a: float | None, b: float | None) -> str:
    """Text of a - b, with its sign."""
    if a is None or b is None:
        return "n/a"
    # A true minus sign is as wide as the plus.
    text = f"{a - b:+.1f}".replace("-", "−")
    return "0.0" if text[1:] == "0.0" else text


def whole(value: int | None) -> str:
    return "n/a" if value is None else f"{value:,}"


def run_names(folders: Sequence[Path]) -> list[str]:
    """
    Args:
        folders: of one or two evaluations.

    Returns:
        Of ``<run>/inference/<dataset>`` that is ``<run>``, or else the folder's own name; of two,
        the ends of their paths, from where they differ.
    """
    folders = [folder.resolve() for folder in folders]
    runs = [f.parents[1] if f.parent.name in ("inference", "inference_TTA") else f for f in folders]
    if len(set(runs)) < len(set(folders)):
        runs = folders
    shared = os.path.commonpath([run.parent for run in runs])
    return [os.path.relpath(run, shared) for run in runs]


def category_columns(
    result: Result, numbers: Sequence[Numbers], other_name: str
) -> list[tuple[str, str, list[str]]]:
    """
    Columns of the table of categories behind names and groups: heading; "segm" or "bbox" of numbers
    that are shown with those of this type, else ""; and the text of each class. ``other_name`` is
    the name of the other run, if any.
    """
    columns = [
        ("Training images", "", [whole(c["train_images"]) for c in result.categories]),
        ("Objects", "", [whole(c["num_objects"]) for c in result.categories]),
    ]
    columns += [(f"AP {of.name}", "", _decimals(of.ap)) for of in numbers]
    for of in numbers:
        if of.other_ap is not None:
            changes = list(map(difference, of.ap, of.other_ap))
            columns.append((f"AP {of.name}, {other_name}", of.iou_type, _decimals(of.other_ap)))
            columns.append(("Difference", of.iou_type, changes))
        columns += [
            ("AP50", of.iou_type, _decimals(class_metric(result, of.iou_type, "AP50"))),
            ("AR", of.iou_type, _decimals(class_metric(result, of.iou_type, "AR"))),
            ("Precision", of.iou_type, _decimals(of.precision)),
            ("Recall", of.iou_type, _decimals(of.recall)),
        ]
    return columns


def _decimals(values):
    return list(map(decimal, values))
