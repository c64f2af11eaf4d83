"""LVIS evaluation by the official ``lvis`` package, the reference, on any numpy."""

import dataclasses
import logging
import pickle
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .detections import Detections
from .lvis_result import LVISResult


class OfficialEngine:
    """
    LVIS evaluation by the official package, which holds all detections and takes minutes where
    :class:`HotcocoEngine` takes seconds. Used as that one is.
    """

    package = "lvis"

    def __init__(
        self, categories: Sequence[dict[str, Any]], iou_type: str, max_detections: int = 300
    ):
        """
        Args:
            categories, iou_type, max_detections: as for :class:`HotcocoEngine`.

        Raises:
            ImportError: the package, or OpenCV, which it needs, cannot be imported.
        """
        with official_package():
            pass  # what cannot be imported is said here, before any inference
        self._categories = list(categories)
        self._iou_type = iou_type
        self._max_detections = max_detections
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._results: list[dict[str, Any]] = []

    def add(
        self,
        images: Sequence[dict[str, Any]],
        annotations: Sequence[Sequence[dict[str, Any]]],
        detections: Sequence[Detections],
    ) -> None:
        """As :meth:`HotcocoEngine.add`."""
        # Looked up for every detection; and the official code writes into annotations.
        self._images += [
            {**image, "neg_category_ids": frozenset(image["neg_category_ids"])} for image in images
        ]
        self._annotations += [
            dict(annotation) for of_image in annotations for annotation in of_image
        ]
        # Only the region of this IoU type: beside a box, it takes the box's area for the mask's.
        other: dict[str, Any] = {"masks" if self._iou_type == "bbox" else "boxes": None}
        for image, of_image in zip(images, detections, strict=True):
            if self._iou_type == "segm":
                of_image.check_masks((image["height"], image["width"]))
            self._results += dataclasses.replace(of_image, **other).to_results()

    def state(self) -> bytes:
        """What was added, for :meth:`merge` in another process."""
        return pickle.dumps((self._images, self._annotations, self._results))

    def merge(self, states: Iterable[bytes]) -> None:
        """Add the images of other engines with the same arguments."""
        for state in states:
            images, annotations, results = pickle.loads(state)
            self._images += images
            self._annotations += annotations
            self._results += results

    def finish(self) -> LVISResult:
        """The numbers of all images that were added; 0 if there are no detections at all."""
        with official_package() as lvis:
            ground_truth = _index(
                lvis.LVIS,
                {
                    "images": self._images,
                    "annotations": self._annotations,
                    "categories": self._categories,
                },
            )
            evaluation = lvis.LVISEval(ground_truth, self._detections(lvis), self._iou_type)
            evaluation.params.max_dets = self._max_detections
            evaluation.evaluate()
            evaluation.accumulate()
        arrays = evaluation.eval
        return LVISResult.from_arrays(arrays["precision"], arrays["recall"], self._categories)

    def _detections(self, lvis):
        # Without the images' category lists, since the package copies what it is given.
        dataset = {
            "images": [
                {key: image[key] for key in ("id", "height", "width")} for image in self._images
            ],
            "annotations": [],
            "categories": self._categories,
        }
        if not self._results:  # which its constructor cannot take
            return _index(lvis.LVISResults, dataset)
        ground_truth = _index(lvis.LVIS, dataset)
        return lvis.LVISResults(ground_truth, self._results, max_dets=self._max_detections)


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
