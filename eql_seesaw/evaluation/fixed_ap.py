"""Fixed AP: as many detections as an image needs, but a limit for each class."""

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from .lvis_evaluation import LVISEvaluation
from .lvis_result import LVISResult
from .official_engine import evaluate_officially
from .results_file import ResultsFile

DETECTIONS_PER_CLASS = 10_000


def evaluate_fixed_ap(
    ground_truth: dict, results_file: str, iou_types: Sequence[str], engine: str = "hotcoco"
) -> dict[str, LVISResult]:
    """
    Fixed AP (Dave et al., "Evaluating Large-Vocabulary Object Detectors: The Devil is in the
    Details", https://arxiv.org/abs/2102.01066): of each class the 10,000 highest scores of the
    whole data set count, however many of them are in one image. All else is as for LVIS's AP.

    Only a model that gives more than 300 detections an image (TEST.DETECTIONS_PER_IMAGE) makes full
    use of it.

    Args:
        ground_truth: as ``load_ground_truth`` returns it.
        results_file: all detections, in LVIS's results format, checked.
        iou_types: of "bbox" and "segm".
        engine: "hotcoco" or "lvis".

    Returns:
        Results by IoU type.
    """
    results = ResultsFile(results_file)
    counts = counts_for_fixed_ap(results.category_ids, results.scores)
    chosen = (
        results.detections(image["id"]).select(np.flatnonzero(counts[results.indices(image["id"])]))
        for image in tqdm(ground_truth["images"], "Fixed AP", disable=None, unit="image")
    )
    if engine == "lvis":
        everything = [result for detections in chosen for result in detections.to_results()]
        return {t: evaluate_officially(ground_truth, everything, t, -1) for t in iou_types}
    evaluation = LVISEvaluation(ground_truth, iou_types, max_detections=-1)
    for detections in chosen:
        evaluation.add(detections)
    return {t: matching.result() for t, matching in evaluation.matchings.items()}


def counts_for_fixed_ap(
    category_ids: np.ndarray, scores: np.ndarray, per_class: int = DETECTIONS_PER_CLASS
) -> np.ndarray:
    """
    Flags of a data set's detections that are among the ``per_class`` highest scores of their class.

    Args:
        category_ids, scores: (N,). Of tied detections the first ones count.

    Returns:
        Bool (N,).
    """
    order = np.lexsort((-scores, category_ids))  # stable
    sorted_ids = category_ids[order]
    first = np.searchsorted(sorted_ids, sorted_ids)
    counts = np.zeros(len(scores), dtype=bool)
    counts[order] = np.arange(len(scores)) - first < per_class
    return counts
