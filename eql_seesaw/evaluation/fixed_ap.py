"""Fixed AP: as many detections as an image needs, but a limit for each class."""

import os
from collections import defaultdict
from collections.abc import Iterable

import hotcoco
import numpy as np
from tqdm import tqdm

from .batch import as_hotcoco_objects
from .hotcoco_engine import lvis_result
from .lvis_evaluation import evaluate_lvis
from .lvis_result import LVISResult
from .results_file import ResultsFile, ResultsWriter

DETECTIONS_PER_CLASS = 10_000


def evaluate_fixed_ap(
    ground_truth: dict, results_file: str, iou_types: Iterable[str], engine: str = "hotcoco"
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
        engine: "hotcoco", or "lvis", which alone knows objects with ``ignore: 1``.

    Returns:
        Results by IoU type.
    """
    results = ResultsFile(results_file)
    counts = counts_for_fixed_ap(results.category_ids, results.scores)
    evaluated = {}
    for iou_type in iou_types:
        chosen = _chosen(ground_truth, results, counts, iou_type)
        if engine != "hotcoco":
            everything = [r for _, _, detections in chosen for r in detections.to_results()]
            evaluated[iou_type] = evaluate_lvis(ground_truth, everything, iou_type, -1, engine)
        else:
            evaluated[iou_type] = _evaluate(
                ground_truth, chosen, iou_type, os.path.dirname(results_file)
            )
    return evaluated


def counts_for_fixed_ap(
    category_ids: np.ndarray, scores: np.ndarray, per_class: int = DETECTIONS_PER_CLASS
) -> np.ndarray:
    """
    Which detections of a data set are among the ``per_class`` highest scores of their class.

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


def _chosen(ground_truth, results, counts, iou_type):
    """The detections that count, image by image, and the images."""
    objects = defaultdict(list)
    for annotation in ground_truth["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    for image in tqdm(ground_truth["images"], f"Fixed AP, {iou_type}", disable=None, unit="image"):
        indices = results.indices(image["id"])
        chosen = results.detections(image["id"]).select(np.flatnonzero(counts[indices]))
        yield image, objects[image["id"]], chosen


def _evaluate(ground_truth, chosen, iou_type, folder):
    # hotcoco's streaming evaluation has a fixed limit of 300 per image; its own way of reading
    # files takes a fraction of the memory of dicts.
    writer = ResultsWriter(folder)
    for image, objects, detections in chosen:
        writer.write(detections.counted(iou_type, -1, image, objects))
    writer.close()
    objects = as_hotcoco_objects(ground_truth["annotations"], iou_type)
    official = hotcoco.COCO({**ground_truth, "annotations": objects})
    evaluation = hotcoco.LVISEval(
        official, hotcoco.LVISResults(official, writer.path, max_dets=-1), iou_type
    )
    evaluation.evaluate()
    return lvis_result(evaluation, ground_truth["categories"])
