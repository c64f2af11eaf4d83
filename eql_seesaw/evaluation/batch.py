"""Images with their objects and detections, converted once for all that is computed of them."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from .detections import REGIONS, Detections


@dataclasses.dataclass(frozen=True)
class Batch:
    """
    Some images, with their objects and detections of one IoU type.

    Attributes:
        images: with "id", "height", "width" and LVIS's two lists of category ids.
        objects: of each image, without those that have no area, which the official code drops.
        detections: of each image, as they came.
        counted: of each image, the detections that count, see :meth:`.Detections.counted`.
        hotcoco_objects: ``objects`` of all images, as :func:`as_hotcoco_objects` makes them.
        rows: float64 (N, 7), ``counted`` of all images in the order of columns that hotcoco takes,
            image id, x, y, width, height, score, category id; several times faster than dicts.
        masks: N masks of them; None for boxes.
    """

    images: Sequence[dict[str, Any]]
    objects: Sequence[Sequence[dict[str, Any]]]
    detections: Sequence[Detections]
    counted: Sequence[Detections]
    hotcoco_objects: list[dict[str, Any]]
    rows: np.ndarray
    masks: list[dict[str, Any]] | None


class Accumulator(Protocol):
    """An engine, a ``Matcher``, ``BoundaryAP``: collects something of images in any order."""

    def add(self, batch: Batch) -> None:
        """Add images; none may come twice."""

    def state(self) -> bytes:
        """What was added, for :meth:`merge` in another process."""

    def merge(self, states: Iterable[bytes]) -> None:
        """Add the images of other accumulators with the same arguments."""

    def finish(self) -> Any:
        """The outcome of all images. Nothing can be added after this."""


def make_batch(
    images: Sequence[dict[str, Any]],
    annotations: Sequence[Sequence[dict[str, Any]]],
    detections: Sequence[Detections],
    iou_type: str,
    max_detections: int,
) -> Batch:
    """
    Args:
        images: as of :class:`Batch`.
        annotations: the objects of each image, with ids from 1.
        detections: of each image.
        iou_type: "bbox" or "segm".
        max_detections: that count per image, over all its classes; -1 for all.

    Raises:
        ValueError: as :meth:`.Detections.counted`.
    """
    objects = [[a for a in of_image if a["area"] > 0] for of_image in annotations]
    counted = [
        of_image.counted(iou_type, max_detections, image, own)
        for image, own, of_image in zip(images, objects, detections, strict=True)
    ]
    rows, masks = _columns(counted, iou_type)
    everything = [a for of_image in objects for a in of_image]
    return Batch(
        images, objects, detections, counted, as_hotcoco_objects(everything, iou_type), rows, masks
    )


def as_hotcoco_objects(objects: Iterable[dict[str, Any]], iou_type: str) -> list[dict[str, Any]]:
    """
    Objects as hotcoco must be given them for the official numbers: without those that have no area,
    and without ``iscrowd``, which the official code does not know.
    """
    keys = ("id", "image_id", "category_id", "area", "bbox", REGIONS[iou_type])
    return [{key: a[key] for key in keys} for a in objects if a["area"] > 0]


def _columns(counted, iou_type):
    rows = np.empty((sum(len(of_image.scores) for of_image in counted), 7))
    masks: list[dict[str, Any]] | None = [] if iou_type == "segm" else None
    start = 0
    for of_image in counted:
        part = rows[start : start + len(of_image.scores)]
        start += len(of_image.scores)
        part[:, 0], part[:, 5] = of_image.image_id, of_image.scores
        part[:, 6] = of_image.category_ids
        if masks is None:
            part[:, 1:5] = of_image.boxes
        else:
            # hotcoco takes a row's area from its box, and needs the box for nothing else.
            part[:, 1:3], part[:, 3], part[:, 4] = 0, of_image.mask_areas, 1
            masks += of_image.masks
    return rows, masks
