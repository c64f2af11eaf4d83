"""LVIS evaluation by the official ``lvis`` package, the reference, on any numpy."""

import dataclasses
import logging
import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .batch import Batch
from .detections import Detections
from .lvis_result import LVISResult


class OfficialEngine:
    """
    LVIS evaluation by the official package, which holds all detections and takes minutes where
    :class:`HotcocoEngine` takes seconds. Used as that one is.
    """

    def __init__(self, ground_truth: dict, iou_type: str, max_detections: int = 300):
        """
        Args:
            ground_truth, iou_type: as for :class:`HotcocoEngine`.
            max_detections: that count per image; -1 for all.

        Raises:
            ImportError: the package, or OpenCV, which it needs, cannot be imported.
        """
        with official_package():
            pass  # what cannot be imported is said here, before any inference
        self._ground_truth = ground_truth
        self._iou_type = iou_type
        self._max_detections = max_detections
        self._detections: list[Detections] = []

    def add(self, batch: Batch) -> None:
        # Only the region of this IoU type: beside a box, it takes the box's area for the mask's.
        for image, of_image in zip(batch.images, batch.detections, strict=True):
            if self._iou_type == "segm":
                of_image.check_masks((image["height"], image["width"]))
                region: dict[str, Any] = {"boxes": None, "masks": list(of_image.masks or [])}
            else:
                region = {"masks": None}
            self._detections.append(dataclasses.replace(of_image, **region))

    def state(self) -> bytes:
        return pickle.dumps(self._detections)

    def merge(self, states: Iterable[bytes]) -> None:
        for state in states:
            self._detections += pickle.loads(state)

    def finish(self) -> LVISResult:
        results = [row for of_image in self._detections for row in of_image.to_results()]
        categories = self._ground_truth["categories"]
        # The package writes into annotations, and copies the images that it is given with results:
        # there without their category lists, which it looks up for every detection.
        images = [
            {**image, "neg_category_ids": frozenset(image["neg_category_ids"])}
            for image in self._ground_truth["images"]
        ]
        sizes = [{key: image[key] for key in ("id", "height", "width")} for image in images]
        annotations = [dict(annotation) for annotation in self._ground_truth["annotations"]]
        with official_package() as lvis:
            index = {"images": sizes, "annotations": [], "categories": categories}
            if results:
                detections = lvis.LVISResults(
                    _index(lvis.LVIS, index), results, max_dets=self._max_detections
                )
            else:  # which its constructor cannot take
                detections = _index(lvis.LVISResults, index)
            index = {"images": images, "annotations": annotations, "categories": categories}
            evaluation = lvis.LVISEval(_index(lvis.LVIS, index), detections, self._iou_type)
            evaluation.params.max_dets = self._max_detections
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
