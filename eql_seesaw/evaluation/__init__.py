"""LVIS evaluation: AP of rare, common and frequent classes, with its table, files and pictures."""

from .ground_truth import load_ground_truth
from .lvis_evaluation import LVISEvaluation
from .lvis_evaluator import LongTailLVISEvaluator
from .lvis_result import LVISResult
from .pictures import draw_pictures
from .result import results_table
from .rle_postprocessing import with_rles

__all__ = [
    "LVISEvaluation",
    "LVISResult",
    "LongTailLVISEvaluator",
    "draw_pictures",
    "load_ground_truth",
    "results_table",
    "with_rles",
]
