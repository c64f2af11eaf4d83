"""LVIS evaluation by hotcoco, the default engine."""

from collections.abc import Iterable, Sequence
from typing import Any

import hotcoco

from ..config import HOTCOCO_MAX_DETECTIONS
from .batch import Batch
from .lvis_result import LVISResult


class HotcocoEngine:
    """
    LVIS evaluation by hotcoco (https://github.com/derekallman/hotcoco), some images at a time.

    The numbers are those of the official package, to the bit. Of an image the outcome of the
    matching is kept, about three kilobytes, and not its detections.
    """

    def __init__(self, ground_truth: dict, iou_type: str, max_detections: int = 300):
        """
        Args:
            ground_truth: as ``load_ground_truth`` returns it.
            iou_type: "bbox" or "segm".
            max_detections: that count per image, over all its classes.

        Raises:
            ValueError: ``max_detections`` is -1 or more than 300.
        """
        if not 0 < max_detections <= HOTCOCO_MAX_DETECTIONS:
            raise ValueError(
                f"TEST.LVIS_MAX_DETECTIONS is {max_detections}; more than {HOTCOCO_MAX_DETECTIONS} "
                "(LVIS's own limit) takes TEST.LVIS_ENGINE lvis"
            )
        self._categories = ground_truth["categories"]
        params = hotcoco.Params(iou_type)
        params.max_dets = [max_detections]
        self._stream = hotcoco.StreamingEval(
            self._categories, iou_type, lvis_style=True, params=params
        )

    def add(self, batch: Batch) -> None:
        # It takes any sequences.
        self._stream.update(
            batch.images,  # type: ignore[arg-type]
            batch.hotcoco_objects,
            batch.rows,
            segmentation=batch.masks,  # type: ignore[arg-type]
        )

    def state(self) -> bytes:
        return self._stream.to_bytes()

    def merge(self, states: Iterable[bytes]) -> None:
        others = (hotcoco.StreamingEval.from_bytes(state) for state in states)
        self._stream = hotcoco.StreamingEval.merge([self._stream, *others])

    def finish(self) -> LVISResult:
        return lvis_result(self._stream.finalize(), self._categories)


def lvis_result(evaluation: hotcoco.COCOeval, categories: Sequence[dict[str, Any]]) -> LVISResult:
    """The numbers of a ``hotcoco.COCOeval`` in LVIS mode whose detections have been matched."""
    evaluation.accumulate()
    arrays = evaluation.eval
    assert arrays is not None, "accumulate() sets it"
    # hotcoco has an axis of its own for the number of detections.
    precision, recall = arrays["precision"][..., 0], arrays["recall"][..., 0]
    return LVISResult.from_arrays(precision, recall, categories)
