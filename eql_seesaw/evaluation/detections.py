"""The detections of one image, as columns."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from hotcoco import mask as hotcoco_mask

from ..data.annotation_entries import compressed_rle


@dataclasses.dataclass(frozen=True)
class Detections:
    """
    Detections of one image.

    Attributes:
        image_id: of the image.
        category_ids: int64 (N,).
        scores: float64 (N,).
        boxes: float64 (N, 4) x, y, width, height in pixels; None if there are masks only.
        masks: N masks as compressed RLE; None if there are boxes only.
    """

    image_id: int
    category_ids: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray | None = None
    masks: Sequence[dict[str, Any]] | None = None

    @classmethod
    def from_results(
        cls, image_id: int, results: Sequence[Mapping[str, Any]], iou_types: Iterable[str]
    ) -> "Detections":
        """
        Args:
            image_id: of all ``results``.
            results: in LVIS's results format, with "category_id", "score" and, for "bbox", "bbox"
                (x, y, width, height), for "segm", "segmentation" (compressed RLE).
            iou_types: of "bbox" and "segm", what is taken.
        """
        boxes = masks = None
        if "bbox" in iou_types:
            boxes = np.array([result["bbox"] for result in results], np.float64).reshape(-1, 4)
        if "segm" in iou_types:
            masks = [result["segmentation"] for result in results]
        category_ids = np.array([result["category_id"] for result in results], np.int64)
        scores = np.array([result["score"] for result in results], np.float64)
        return cls(image_id, category_ids, scores, boxes, masks)

    @classmethod
    def from_instances(
        cls, image_id: int, instances: Instances, category_ids: np.ndarray
    ) -> "Detections":
        """
        Detections of Detectron2's ``Instances``.

        Args:
            image_id: of the image.
            instances: on any device, with ``pred_boxes``, ``scores``, ``pred_classes`` and,
                where there are masks, ``pred_masks``, (N, H, W), or ``pred_rles``, a list of
                compressed RLE.
            category_ids: int64 (K,), of the contiguous classes.
        """
        instances = instances.to("cpu")
        results = instances_to_coco_json(instances, image_id)
        for i, result in enumerate(results):
            result["category_id"] = category_ids[result["category_id"]]
            if instances.has("pred_rles"):
                result["segmentation"] = instances.pred_rles[i]
        has_masks = instances.has("pred_rles") or instances.has("pred_masks")
        return cls.from_results(image_id, results, ("bbox", "segm") if has_masks else ("bbox",))

    @property
    def iou_types(self) -> tuple[str, ...]:
        """Of "bbox" and "segm", what they have."""
        regions = {"bbox": self.boxes, "segm": self.masks}
        return tuple(iou_type for iou_type, region in regions.items() if region is not None)

    def to_results(self) -> list[dict[str, Any]]:
        """In LVIS's results format."""
        columns = {"category_id": self.category_ids.tolist()}
        if self.boxes is not None:
            columns["bbox"] = self.boxes.tolist()
        columns["score"] = self.scores.tolist()
        if self.masks is not None:
            columns["segmentation"] = list(self.masks)
        return [
            {"image_id": self.image_id, **dict(zip(columns, row, strict=True))}
            for row in zip(*columns.values(), strict=True)
        ]

    def select(self, indices: np.ndarray) -> "Detections":
        """Some of the detections, in this order."""
        return Detections(
            self.image_id,
            self.category_ids[indices],
            self.scores[indices],
            None if self.boxes is None else self.boxes[indices],
            None if self.masks is None else [self.masks[i] for i in indices],
        )

    def with_compressed_masks(self, height: int, width: int) -> "Detections":
        """
        The same, with polygons and uncompressed RLE of other tools as compressed RLE.

        Raises:
            ValueError: a mask is neither.
        """
        if self.masks is None:
            return self
        try:
            masks = [_as_text(compressed_rle(mask, height, width)) for mask in self.masks]
        except Exception as error:  # pycocotools raises what it meets
            raise ValueError(
                f"Detection in image {self.image_id!r} has a 'segmentation' that is neither "
                f"polygons nor RLE: {error}"
            ) from None
        return dataclasses.replace(self, masks=masks)

    def areas(self, iou_type: str) -> np.ndarray:
        """
        float64 (N,), in pixels, of the boxes ("bbox") or the masks ("segm").

        Raises:
            ValueError: a mask is broken.
        """
        if iou_type == "bbox":
            assert self.boxes is not None, "there are masks only"
            return self.boxes[:, 2] * self.boxes[:, 3]
        masks: Any = self.masks
        try:
            return np.array(hotcoco_mask.area(masks), dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Detection in image {self.image_id!r} has a broken mask: {error}"
            ) from None

    def indices_that_count(
        self,
        iou_type: str,
        max_detections: int,
        image: Mapping[str, Any],
        objects: Sequence[Mapping[str, Any]],
    ) -> np.ndarray:
        """
        The detections that LVIS evaluation takes: the ``max_detections`` highest scores, and of
        those the ones that have an area and a class that was verified in the image. In this order,
        as in the official code: an empty mask takes a place from another detection.

        Args:
            iou_type: "bbox" or "segm".
            max_detections: -1 for all.
            image: with "height", "width" and "neg_category_ids".
            objects: annotations of the image; with the negatives they say which classes were
                verified.

        Returns:
            int64 (n,), highest score first; of tied ones in their own order.

        Raises:
            ValueError: a mask among them is not of the image's size, or is broken.
        """
        verified = {a["category_id"] for a in objects if a["area"] > 0}
        verified.update(image["neg_category_ids"])
        indices = np.argsort(-self.scores, kind="stable")
        indices = indices if max_detections < 0 else indices[:max_detections]
        is_verified = [k in verified for k in self.category_ids[indices].tolist()]
        indices = indices[is_verified]
        chosen = self.select(indices)
        areas = chosen.areas(iou_type)
        image_size = [image["height"], image["width"]]
        for mask in (chosen.masks or ()) if iou_type == "segm" else ():
            if list(mask["size"]) != image_size:
                raise ValueError(
                    f"Detection in image {self.image_id!r} has a mask of size {mask['size']}, but "
                    f"the image is {image_size} (height, width)."
                )
        return indices[areas > 0]


def _as_text(rle):
    """A compressed RLE of pycocotools as JSON has it."""
    counts = rle["counts"]
    return {**rle, "counts": counts.decode()} if isinstance(counts, bytes) else rle
