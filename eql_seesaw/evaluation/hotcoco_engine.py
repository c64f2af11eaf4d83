"""LVIS evaluation by hotcoco, the default engine."""

from collections.abc import Iterable, Sequence
from typing import Any

import hotcoco
import numpy as np

from .detections import REGIONS, Detections, counted_detections
from .lvis_result import LVISResult

# Built into hotcoco's StreamingEval, whatever its parameters say.
MAX_DETECTIONS = 300


class HotcocoEngine:
    """
    LVIS evaluation by hotcoco (https://github.com/derekallman/hotcoco), some images at a time.

    The numbers are those of the official package, to the bit. What is kept of an image is the
    outcome of the matching, about three kilobytes, and not its detections.
    """

    package = "hotcoco"

    def __init__(
        self, categories: Sequence[dict[str, Any]], iou_type: str, max_detections: int = 300
    ):
        """
        Args:
            categories: of the ground truth, with "frequency", in ascending order of id.
            iou_type: "bbox" or "segm".
            max_detections: that count per image, over all its classes.

        Raises:
            ValueError: ``max_detections`` is -1 or more than 300.
        """
        check_max_detections(max_detections)
        self._categories = list(categories)
        self._iou_type = iou_type
        self._max_detections = max_detections
        params = hotcoco.Params(iou_type)
        params.max_dets = [max_detections]
        self._stream = hotcoco.StreamingEval(
            self._categories, iou_type, lvis_style=True, params=params
        )

    def add(
        self,
        images: Sequence[dict[str, Any]],
        annotations: Sequence[Sequence[dict[str, Any]]],
        detections: Sequence[Detections],
    ) -> None:
        """
        Args:
            images: with "id", "height", "width" and LVIS's two lists of category ids. No image may
                come twice.
            annotations: the objects of each image, with ids from 1.
            detections: of each image.

        Raises:
            ValueError: a mask does not fit its image.
        """
        objects = as_hotcoco_objects(annotations, self._iou_type)
        counted = counted_detections(
            images, annotations, detections, self._iou_type, self._max_detections
        )
        rows, masks = as_hotcoco_detections(counted, self._iou_type)
        # It takes any sequences.
        self._stream.update(images, objects, rows, segmentation=masks)  # type: ignore[arg-type]

    def state(self) -> bytes:
        """What was added, for :meth:`merge` in another process."""
        return self._stream.to_bytes()

    def merge(self, states: Iterable[bytes]) -> None:
        """Add the images of other engines with the same arguments."""
        others = (hotcoco.StreamingEval.from_bytes(state) for state in states)
        self._stream = hotcoco.StreamingEval.merge([self._stream, *others])

    def finish(self) -> LVISResult:
        """The numbers of all images that were added. Nothing can be added after this."""
        return lvis_result(self._stream.finalize(), self._categories)


def check_max_detections(max_detections: int) -> None:
    """
    Raises:
        ValueError: hotcoco cannot evaluate with this limit.
    """
    if not 0 < max_detections <= MAX_DETECTIONS:
        raise ValueError(
            f"TEST.LVIS_MAX_DETECTIONS is {max_detections}; more than {MAX_DETECTIONS} (LVIS's "
            "own limit) takes TEST.LVIS_ENGINE lvis"
        )


def lvis_result(evaluation: hotcoco.COCOeval, categories: Sequence[dict[str, Any]]) -> LVISResult:
    """The numbers of a ``hotcoco.COCOeval`` in LVIS mode whose detections have been matched."""
    evaluation.accumulate()
    arrays = evaluation.eval
    assert arrays is not None, "accumulate() sets it"
    # hotcoco has an axis of its own for the number of detections.
    precision, recall = arrays["precision"][..., 0], arrays["recall"][..., 0]
    return LVISResult.from_arrays(precision, recall, categories)


def as_hotcoco_objects(
    annotations: Iterable[Iterable[dict[str, Any]]], iou_type: str
) -> list[dict[str, Any]]:
    """
    Objects as hotcoco must be given them for the official numbers: without those that have no area,
    and without ``iscrowd``, which the official code does not know.
    """
    keys = ("id", "image_id", "category_id", "area", "bbox", REGIONS[iou_type])
    return [
        {key: annotation[key] for key in keys}
        for objects in annotations
        for annotation in objects
        if annotation["area"] > 0
    ]


def as_hotcoco_detections(
    detections: Sequence[Detections], iou_type: str
) -> tuple[np.ndarray, list[dict[str, Any]] | None]:
    """
    Detections as the array and the list of masks (None for boxes) that hotcoco takes, which is
    several times faster than dicts.
    """
    rows = np.empty((sum(len(d.scores) for d in detections), 7))
    masks: list[dict[str, Any]] | None = [] if iou_type == "segm" else None
    start = 0
    for of_image in detections:
        part = rows[start : start + len(of_image.scores)]
        start += len(of_image.scores)
        part[:, 0], part[:, 5], part[:, 6] = (
            of_image.image_id,
            of_image.scores,
            of_image.category_ids,
        )
        if masks is None:
            part[:, 1:5] = of_image.boxes
        else:
            # hotcoco takes a row's area from its box, and needs the box for nothing else.
            part[:, 1:3], part[:, 3], part[:, 4] = 0, of_image.mask_areas, 1
            assert of_image.masks is not None, "their areas are known"
            masks += of_image.masks
    return rows, masks
