"""LVIS evaluation: AP of rare, common and frequent classes, with its table, files and pictures."""

from importlib import import_module
from typing import TYPE_CHECKING

# Not on first use as the others: its module has the same name, and would be found instead.
from .results_table import results_table

if TYPE_CHECKING:
    from .ground_truth import load_ground_truth
    from .lvis_evaluation import evaluate_lvis
    from .lvis_evaluator import LongTailLVISEvaluator
    from .lvis_result import LVISResult
    from .pictures import draw_evaluation, draw_predictions
    from .rle_postprocessing import with_rles

__all__ = [
    "LVISResult",
    "LongTailLVISEvaluator",
    "draw_evaluation",
    "draw_predictions",
    "evaluate_lvis",
    "load_ground_truth",
    "results_table",
    "with_rles",
]

_MODULES = {
    "LVISResult": "lvis_result",
    "LongTailLVISEvaluator": "lvis_evaluator",
    "draw_evaluation": "pictures",
    "draw_predictions": "pictures",
    "evaluate_lvis": "lvis_evaluation",
    "load_ground_truth": "ground_truth",
    "with_rles": "rle_postprocessing",
}


# Imported on first use: together they take seconds, which --help should not.
def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
