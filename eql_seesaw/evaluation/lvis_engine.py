"""LVIS metrics, computed by the official ``lvis`` package on any numpy."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LVISResult:
    """
    LVIS metrics of one set of detections, in percent.

    Attributes:
        metrics: the official thirteen, by the official names: AP, AP50, AP75, APs, APm, APl, APr,
            APc, APf, and AR, ARs, ARm, ARl followed by "@" and the number of detections. None
            where there is no ground truth (the official code says -1).
        category_ap: (K,) float64, AP of each category in ascending order of id; NaN for a
            category without ground truth, 0 for one that has some and is never predicted.
    """

    metrics: dict[str, float | None]
    category_ap: np.ndarray


def evaluate_lvis(
    ground_truth: dict, results: list[dict], iou_type: str, max_detections: int = 300
) -> LVISResult:
    """
    Evaluate detections by the LVIS rules (https://www.lvisdataset.org, arXiv 1908.03195).

    The numbers are those of the official code: the ``max_detections`` highest scores of an image
    count, over all its classes; then detections without area are dropped; then those of classes
    that are neither annotated in the image nor among its negatives. Without any detection, which
    the official code cannot take, every metric that has ground truth is 0.

    Args:
        ground_truth: a complete LVIS annotation dict, as ``load_ground_truth`` returns it.
        results: detections with "image_id", "category_id", "score", and, for "bbox", "bbox"
            (x, y, width, height), for "segm", "segmentation" (compressed RLE). Areas are those of
            the masks for "segm", whether the detections have boxes or not.
        iou_type: "bbox" or "segm".
        max_detections: detections that count per image.

    Neither ``ground_truth`` nor ``results`` is changed.

    Raises:
        ValueError: a detection has an unknown image or category id, a score or box that is not
            finite, or a mask that does not fit its image; or the ground truth has no masks.
    """
    if iou_type not in ("bbox", "segm"):
        raise ValueError(f"iou_type is {iou_type!r}; expected 'bbox' or 'segm'.")
    if max_detections < 1:
        raise ValueError(f"max_detections is {max_detections}; expected at least 1.")
    region = "bbox" if iou_type == "bbox" else "segmentation"
    _check_ground_truth_regions(ground_truth, region)
    _check_results(ground_truth, results, region)

    with official_package() as lvis:
        lvis_gt = _index(lvis.LVIS, _copy_ground_truth(ground_truth))
        lvis_dt = _lvis_results(lvis, ground_truth, results, region, max_detections)
        lvis_eval = lvis.LVISEval(lvis_gt, lvis_dt, iou_type)
        lvis_eval.params.max_dets = max_detections
        lvis_eval.run()
    return LVISResult(
        metrics={
            name: None if value == -1 else float(value * 100)
            for name, value in lvis_eval.get_results().items()
        },
        category_ap=_category_ap(lvis_eval.eval["precision"]),
    )


@contextmanager
def official_package() -> Iterator:
    """
    The ``lvis`` package, silent and with the ``numpy.float`` it asks for, which numpy 1.24 removed.

    Both last for the ``with`` block only; a ``numpy.float`` that was there before stays.

    Raises:
        ImportError: the package, or OpenCV, which it needs, cannot be imported.
    """
    root, logger = logging.getLogger(), logging.getLogger("lvis")
    # Importing lvis gives the root logger a handler if it has none, which would repeat our lines.
    placeholder = logging.NullHandler()
    root.addHandler(placeholder)
    try:
        import lvis
    except ImportError as error:
        raise ImportError(
            f"LVIS evaluation needs the lvis package and OpenCV ({error}); "
            "pip install lvis opencv-python-headless"
        ) from error
    finally:
        root.removeHandler(placeholder)

    level, lacks_float = logger.level, "float" not in vars(np)
    logger.setLevel(logging.CRITICAL)
    if lacks_float:
        np.float = float
    try:
        yield lvis
    finally:
        logger.setLevel(level)
        if lacks_float:
            del np.float


def _index(lvis_class, dataset):
    """An LVIS or LVISResults object on a dict; their constructors read files."""
    api = lvis_class.__new__(lvis_class)
    api.logger = logging.getLogger("lvis")
    api.dataset = dataset
    api._create_index()
    return api


def _copy_ground_truth(ground_truth):
    """The official code writes into annotations, and looks ids up in lists that may be long."""
    images = [
        {
            **image,
            "neg_category_ids": frozenset(image["neg_category_ids"]),
            "not_exhaustive_category_ids": frozenset(image["not_exhaustive_category_ids"]),
        }
        for image in ground_truth["images"]
    ]
    annotations = [dict(annotation) for annotation in ground_truth["annotations"]]
    return {**ground_truth, "images": images, "annotations": annotations}


def _lvis_results(lvis, ground_truth, results, region, max_detections):
    # Only the keys of this IoU type: beside a box, the official code takes the box's area for
    # the mask's. And images without their category lists, since it copies what it is given.
    keys = ("image_id", "category_id", "score", region)
    results = [{key: result[key] for key in keys} for result in results]
    dataset = {
        "images": [
            {key: image[key] for key in ("id", "height", "width")}
            for image in ground_truth["images"]
        ],
        "annotations": [],
        "categories": ground_truth["categories"],
    }
    if not results:
        return _index(lvis.LVISResults, dataset)
    return lvis.LVISResults(_index(lvis.LVIS, dataset), results, max_dets=max_detections)


def _category_ap(precision):
    """(T, R, K, A) precisions, -1 without ground truth, to (K,) AP over all areas in percent."""
    precision = precision[:, :, :, 0]
    ap = precision.mean(axis=(0, 1)) * 100
    ap[(precision == -1).all(axis=(0, 1))] = np.nan
    return ap


def _check_ground_truth_regions(ground_truth, region):
    for annotation in ground_truth["annotations"]:
        if region not in annotation:
            raise ValueError(
                f"Ground truth annotation {annotation['id']} of image {annotation['image_id']!r} "
                f"has no {region!r}, so {region} AP cannot be computed."
            )


def _check_results(ground_truth, results, region):
    image_sizes = {
        image["id"]: [image["height"], image["width"]] for image in ground_truth["images"]
    }
    category_ids = {category["id"] for category in ground_truth["categories"]}
    for result in results:
        for key in ("image_id", "category_id", "score", region):
            if key not in result:
                raise ValueError(f"Detection in image {result.get('image_id')!r} has no {key!r}.")
        where = f"Detection in image {result['image_id']!r}"
        if result["image_id"] not in image_sizes:
            raise ValueError(f"{where}: the ground truth has no image with this id.")
        if result["category_id"] not in category_ids:
            raise ValueError(
                f"{where}: the ground truth has no category id {result['category_id']!r}."
            )
        if not math.isfinite(result["score"]):
            raise ValueError(
                f"{where} of category {result['category_id']} has score {result['score']}."
            )
        value = result[region]
        if region == "bbox":
            if len(value) != 4 or not all(map(math.isfinite, value)):
                raise ValueError(f"{where} has bbox {value}; expected [x, y, width, height].")
        elif not isinstance(value, dict) or not isinstance(value.get("counts"), (str, bytes)):
            raise ValueError(f"{where} has a 'segmentation' that is no compressed RLE.")
        elif list(value["size"]) != image_sizes[result["image_id"]]:
            raise ValueError(
                f"{where} has a mask of size {list(value['size'])}, but the image is "
                f"{image_sizes[result['image_id']]} (height, width)."
            )
