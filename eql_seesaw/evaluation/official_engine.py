"""LVIS evaluation by the official ``lvis`` package, the reference, on any numpy."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .detections import REGIONS
from .lvis_result import LVISResult


def evaluate_officially(
    ground_truth: dict, results: Iterable[dict[str, Any]], iou_type: str, max_detections: int = 300
) -> LVISResult:
    """
    Numbers of the official package, which holds all detections and takes minutes where
    :class:`~eql_seesaw.evaluation.matching.Matching` takes seconds; 0 without any detection.

    Args:
        ground_truth, results, iou_type, max_detections: as for ``evaluate_lvis``, checked.

    Raises:
        ImportError: the package, or OpenCV, which it needs, cannot be imported.
    """
    # Only this IoU type's region: beside a box, it takes the box's area for the mask's.
    keys = ("image_id", "category_id", "score", REGIONS[iou_type])
    results = [{key: result[key] for key in keys} for result in results]
    images, categories = ground_truth["images"], ground_truth["categories"]
    # Without the images' category lists, since the package copies what it is given.
    sizes = [{key: image[key] for key in ("id", "height", "width")} for image in images]
    without_objects = {"images": sizes, "annotations": [], "categories": categories}
    with official_package() as lvis:
        official = _index(
            lvis.LVIS,
            {
                # Looked up for every detection.
                "images": [
                    {**image, "neg_category_ids": frozenset(image["neg_category_ids"])}
                    for image in images
                ],
                # The official code writes into them.
                "annotations": [dict(annotation) for annotation in ground_truth["annotations"]],
                "categories": categories,
            },
        )
        if results:
            detections = lvis.LVISResults(
                _index(lvis.LVIS, without_objects), results, max_dets=max_detections
            )
        else:  # which its constructor cannot take
            detections = _index(lvis.LVISResults, without_objects)
        evaluation = lvis.LVISEval(official, detections, iou_type)
        evaluation.params.max_dets = max_detections
        evaluation.evaluate()
        evaluation.accumulate()
    arrays = evaluation.eval
    return LVISResult.from_arrays(arrays["precision"], arrays["recall"], categories)


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
            f"TEST.LVIS_ENGINE lvis needs the lvis package and OpenCV ({error}); "
            "pip install lvis opencv-python-headless"
        ) from error
    finally:
        root.removeHandler(placeholder)

    level, lacks_float = logger.level, "float" not in vars(np)
    logger.setLevel(logging.CRITICAL)
    if lacks_float:
        np.float = float  # type: ignore[attr-defined]
    try:
        yield lvis
    finally:
        logger.setLevel(level)
        if lacks_float:
            del np.float  # type: ignore[attr-defined]


def _index(lvis_class, dataset):
    """An LVIS or LVISResults object on a dict; their constructors read files."""
    api = lvis_class.__new__(lvis_class)
    api.logger = logging.getLogger("lvis")
    api.dataset = dataset
    api._create_index()
    return api
