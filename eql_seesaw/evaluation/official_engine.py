"""LVIS evaluation by the official ``lvis`` package, the reference, on any numpy."""

import logging
from collections import defaultdict
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np

from .lvis_result import LVISResult


def evaluate_officially(
    ground_truth: dict, results: Iterable[dict[str, Any]], iou_type: str, max_detections: int = 300
) -> LVISResult:
    """
    Numbers of the official package, which holds all detections and takes minutes where
    :class:`.LVISEvaluation` takes seconds.

    Args:
        ground_truth: a complete LVIS annotation dict, as ``load_ground_truth`` returns it.
        results: in LVIS's results format; at least one.
        iou_type: "bbox" or "segm".
        max_detections: that count per image, over all classes; -1 for all.
    """
    lvis = official_package()

    class GroundTruth(lvis.LVIS):  # type: ignore[name-defined]
        """On a dict in place of a file."""

        def _load_json(self, dataset):
            return dataset

    # Only this IoU type's region: beside a box, it takes the box's area for the mask's.
    region = "segmentation" if iou_type == "segm" else "bbox"
    keys = ("image_id", "category_id", "score", region)
    results = [{key: result[key] for key in keys} for result in results]
    # It writes into annotations, and copies what comes with the results.
    annotations = [dict(annotation) for annotation in ground_truth["annotations"]]
    official = GroundTruth({**ground_truth, "annotations": annotations})
    without_objects = GroundTruth({**ground_truth, "annotations": []})
    detections = lvis.LVISResults(without_objects, results, max_dets=max_detections)
    evaluation = lvis.LVISEval(official, detections, iou_type)
    evaluation.params.max_dets = max_detections
    evaluation.evaluate()
    evaluation.accumulate()
    arrays = evaluation.eval
    return LVISResult.from_arrays(arrays["precision"], arrays["recall"], ground_truth["categories"])


def best_of_each_class(results: Iterable[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """The results of each class with the highest scores, of tied ones the first."""
    by_class = defaultdict(list)
    for result in sorted(results, key=lambda result: -result["score"]):
        by_class[result["category_id"]].append(result)
    return [result for of_class in by_class.values() for result in of_class[:number]]


def official_package() -> ModuleType:
    """The ``lvis`` package, silent, with the ``numpy.float`` that numpy 1.24 removed."""
    import lvis

    logging.getLogger("lvis").setLevel(logging.CRITICAL)
    if "float" not in vars(np):
        np.float = float  # type: ignore[attr-defined]
    return lvis
