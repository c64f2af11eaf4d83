"""The table of LVIS metrics that a person reads in the log."""

from collections.abc import Mapping

from tabulate import tabulate

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
ROW_NAMES = {"bbox": "box", "segm": "mask"}


def results_table(results: Mapping[str, Mapping[str, float]]) -> str:
    """
    Box and mask AP as a table with one decimal.

    Args:
        results: as ``LongTailLVISEvaluator.evaluate`` returns them, {"bbox": {"AP": percent, ...},
            "segm": {...}}. A metric that is absent had no ground truth and is shown as n/a;
            "segm", or "bbox", may be absent as a whole. Other keys are left out.
    """
    rows = [
        [ROW_NAMES[task], *(_cell(results[task].get(metric)) for metric in METRICS)]
        for task in ROW_NAMES
        if task in results
    ]
    alignment = ("left", *["right"] * len(METRICS))
    return tabulate(
        rows, headers=("", *METRICS), tablefmt="pipe", disable_numparse=True, colalign=alignment
    )


def _cell(value):
    return "n/a" if value is None else f"{value:.1f}"
