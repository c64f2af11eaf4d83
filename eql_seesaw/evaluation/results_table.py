"""The tables of LVIS metrics that a person reads in the log."""

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from ..config import AP_METRICS, OTHER_METRICS

ROW_NAMES = {
    "bbox": "box",
    "segm": "mask",
    "bbox_fixed": "box, Fixed AP",
    "segm_fixed": "mask, Fixed AP",
    "boundary": "mask, Boundary AP",
}


def results_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """
    Two tables, AP and the other metrics, with one decimal.

    Args:
        results: as ``LongTailLVISEvaluator.evaluate`` returns them, {"bbox": {"AP": percent, ...},
            "segm": {...}}. A metric that is absent had no ground truth (ECE: no
            detections) and is shown as n/a; whole rows may be absent. Other keys are left out.
    """
    first = [task for task in ROW_NAMES if task in results]
    second = [task for task in ("bbox", "segm") if task in results]
    return f"{_table(results, first, AP_METRICS)}\n\n{_table(results, second, OTHER_METRICS)}"


def _table(
    results: Mapping[str, Mapping[str, float]], tasks: Sequence[str], metrics: Sequence[str]
) -> str:
    rows = [
        [ROW_NAMES[task], *(_cell(results[task].get(metric)) for metric in metrics)]
        for task in tasks
    ]
    alignment = ("left", *["right"] * len(metrics))
    return tabulate(
        rows, headers=("", *metrics), tablefmt="pipe", disable_numparse=True, colalign=alignment
    )


def _cell(value):
    return "n/a" if value is None else f"{value:.1f}"
