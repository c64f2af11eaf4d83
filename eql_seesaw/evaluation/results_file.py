"""Detections in LVIS's results format: those of a file, and those of an evaluation."""

import itertools
import logging
import mmap
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import msgspec
import numpy as np

from ..data.annotation_entries import Id
from ..data.annotation_file import paused_garbage_collector
from .detections import Detections

logger = logging.getLogger(__name__)
ABSENT = msgspec.Raw()


class _Result(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    score: float
    bbox: tuple[float, float, float, float] | None = None
    segmentation: msgspec.Raw = ABSENT


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[_Result]).decode


class CollectedResults:
    """
    Detections of images as they are written to a file, which takes a fraction of the memory of
    Python objects.

    Attributes:
        of_images: JSON of each image's detections, one a line, with commas between.
        iou_types: of "bbox" and "segm", what the detections have; () before the first.
    """

    def __init__(self) -> None:
        self.of_images: dict[int, bytes] = {}
        self.iou_types: tuple[str, ...] = ()

    def add(self, detections: Detections) -> None:
        if self.iou_types not in ((), detections.iou_types):
            where = f"Image {detections.image_id!r}"
            raise ValueError(f"{where}: either all images have masks, or none.")
        self.iou_types = detections.iou_types
        self.of_images[detections.image_id] = b",\n".join(map(_encode, detections.to_results()))

    def select(self, image_id: int, is_kept: np.ndarray) -> None:
        """Keep some of an image's detections; bool (N,)."""
        lines = itertools.compress(self.of_images[image_id].split(b",\n"), is_kept)
        self.of_images[image_id] = b",\n".join(lines)

    def detections(self, image_id: int) -> Detections:
        """Detections of an image; none if it was not added."""
        results = msgspec.json.decode(b"[" + self.of_images.get(image_id, b"") + b"]")
        return Detections.from_results(image_id, results, self.iou_types)

    def write(self, f: IO[bytes]) -> None:
        """Write all detections as one list."""
        f.write(b"[\n")
        separator = b""
        for lines in filter(None, self.of_images.values()):
            f.write(separator + lines)
            separator = b",\n"
        f.write(b"\n]\n")


class ResultsFile:
    """
    Detections in a JSON file, a list in LVIS's results format, by image.

    Masks stay as they are in the file until they are asked for: as Python objects, those of LVIS's
    validation set would take many gigabytes.

    Attributes:
        path: of the file.
        image_ids, category_ids: int64 (N,), of every detection in the file's order.
        scores: float64 (N,).
    """

    def __init__(self, path: str, decode: Callable[[Any], Sequence[Any]] = _decode):
        """
        Args:
            path: of the file.
            decode: detections of its content; :func:`.decode_other_results` for other tools'.

        Raises:
            FileNotFoundError: no such file.
            ValueError: no list of detections; in one line with the file and the place in it.
        """
        self.path = path
        with open(path, "rb") as f, paused_garbage_collector():
            try:
                results = decode(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
            self.image_ids = np.array([result.image_id for result in results], np.int64)
            self.category_ids = np.array([result.category_id for result in results], np.int64)
            self.scores = np.array([result.score for result in results], np.float64)
            boxes = self._region("bbox", [result.bbox for result in results], None)
            masks = self._region("segmentation", [r.segmentation for r in results], ABSENT)
            self._boxes = None
            if boxes is not None:
                numbers = itertools.chain.from_iterable(boxes)
                self._boxes = np.fromiter(numbers, np.float64, 4 * len(boxes)).reshape(-1, 4)
        if boxes is masks is None:
            raise ValueError(f"{path}: detection 0 has neither 'bbox' nor 'segmentation'.")
        self._masks = masks or None  # of an empty list nothing is known
        # Stable, so that the detections of an image stay in the file's order.
        self._order = np.argsort(self.image_ids, kind="stable")
        self._sorted_image_ids = self.image_ids[self._order]

    def _region(self, key, values, absent):
        """Boxes or masks of all detections; None if the first has none."""
        if values and values[0] is absent:
            return None
        if absent in values:
            i = values.index(absent)
            raise ValueError(f"{self.path}: detection {i} has no '{key}', but the first has.")
        return values

    def check(self, ground_truth: Mapping[str, Any], annotation_file: str) -> None:
        """
        Warn of values that are well-formed, but most likely mean something else.

        Raises:
            ValueError: a detection has an id that the ground truth does not have.
        """
        for key, ids, section in (
            ("image_id", self.image_ids, "images"),
            ("category_id", self.category_ids, "categories"),
        ):
            unknown = np.flatnonzero(
                ~np.isin(ids, [entry["id"] for entry in ground_truth[section]])
            )
            if len(unknown):
                raise ValueError(
                    f"{self.path}: detection {unknown[0]} has {key} {ids[unknown[0]]}, which is "
                    f"not in {annotation_file} ({len(unknown)} of {len(ids)} detections)"
                )
        if self.scores.max(initial=0) > 1:
            logger.warning(
                f"{self.path}: scores go up to {self.scores.max():g}; if they are percent, divide "
                "by 100: AP stays as it is, calibration errors and pictures do not"
            )
        if self._boxes is not None and len(self._boxes):
            sizes = {
                image["id"]: (image["width"], image["height"]) for image in ground_truth["images"]
            }
            size = np.array([sizes[image_id] for image_id in self.image_ids.tolist()]) + 1
            x_y, width_height = self._boxes[:, :2], self._boxes[:, 2:]
            leads_out = np.any(x_y + width_height > size, axis=1)
            is_corner = np.all((width_height > x_y) & (width_height <= size), axis=1)
            if leads_out.mean() > 0.25 and is_corner[leads_out].mean() > 0.9:
                logger.warning(
                    f"{self.path}: {leads_out.sum()} of {len(leads_out)} boxes lead out of their "
                    "image; they seem to be x0, y0, x1, y1, but in LVIS's results format a box is "
                    "x, y, width, height"
                )

    def detections(self, image_id: int) -> Detections:
        """Detections of an image; none if there is nothing of it in the file."""
        bounds = np.searchsorted(self._sorted_image_ids, [image_id, image_id + 1])
        indices = self._order[slice(*bounds)]
        masks = self._masks and [msgspec.json.decode(self._masks[i]) for i in indices]
        boxes = None if self._boxes is None else self._boxes[indices]
        return Detections(image_id, self.category_ids[indices], self.scores[indices], boxes, masks)
