"""The detections of one image, as columns."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, BoxMode, Instances
from hotcoco import mask as hotcoco_mask

from ..data.annotation_entries import compressed_rle
from .mask_encoding import encode_masks

REGIONS = {"bbox": "bbox", "segm": "segmentation"}


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
            iou_types: of "bbox" and "segm", what is needed.

        Raises:
            ValueError: a detection lacks a key, or its box is not four numbers.
        """
        regions = [REGIONS[iou_type] for iou_type in iou_types]
        for result in results:
            for key in ("category_id", "score", *regions):
                if key not in result:
                    raise ValueError(f"Detection in image {image_id!r} has no {key!r}.")
            if "bbox" in regions and len(result["bbox"]) != 4:
                raise ValueError(
                    f"Detection in image {image_id!r} has bbox {result['bbox']}; expected "
                    "[x, y, width, height]."
                )
        boxes = masks = None
        if "bbox" in regions:
            boxes = np.array([result["bbox"] for result in results], np.float64).reshape(-1, 4)
        if "segmentation" in regions:
            masks = [result["segmentation"] for result in results]
        return cls(
            image_id,
            np.array([result["category_id"] for result in results], np.int64),
            np.array([result["score"] for result in results], np.float64),
            boxes,
            masks,
        )

    @classmethod
    def from_instances(
        cls, image_id: int, instances: Instances, category_id: Callable[[int], int]
    ) -> "Detections":
        """
        Detections of Detectron2's ``Instances``, to the bit as ``instances_to_coco_json`` has them.

        Args:
            image_id: of the image.
            instances: on any device, with ``pred_boxes``, ``scores``, ``pred_classes`` and,
                where there are masks, ``pred_masks``, (N, H, W), or ``pred_rles``, a list of
                compressed RLE.
            category_id: of a contiguous class.
        """
        boxes = instances.pred_boxes.tensor.cpu()
        boxes = BoxMode.convert(boxes, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
        classes = instances.pred_classes.tolist()
        return cls(
            image_id,
            np.array([category_id(k) for k in classes], np.int64),
            np.array(instances.scores.tolist(), np.float64),
            boxes.double().numpy(),
            _rles(instances),
        )

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
            masks = [compressed_rle(mask, height, width) for mask in self.masks]
        except Exception as error:  # pycocotools raises what it meets
            raise ValueError(
                f"Detection in image {self.image_id!r} has a 'segmentation' that is neither "
                f"polygons nor RLE: {error}"
            ) from None
        return dataclasses.replace(self, masks=masks)

    @functools.cached_property
    def box_areas(self) -> np.ndarray:
        """float64 (N,), in pixels."""
        assert self.boxes is not None, "there are masks only"
        return self.boxes[:, 2] * self.boxes[:, 3]

    @functools.cached_property
    def mask_areas(self) -> np.ndarray:
        """
        float64 (N,), in pixels.

        Raises:
            ValueError: a mask is broken.
        """
        masks: Any = self.masks  # None is a TypeError, as what is broken may be
        try:
            return np.array(hotcoco_mask.area(masks), dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"Detection in image {self.image_id!r} has a broken mask: {error}"
            ) from None

    def check(self, category_ids: Collection[int]) -> None:
        """
        Args:
            category_ids: of the ground truth.

        Raises:
            ValueError: a category id is unknown, or a score or box is not finite. In one line.
        """
        where = f"Detection in image {self.image_id!r}"
        for category_id in np.unique(self.category_ids).tolist():
            if category_id not in category_ids:
                raise ValueError(f"{where}: the ground truth has no category id {category_id!r}.")
        for i in np.flatnonzero(~np.isfinite(self.scores)):
            raise ValueError(
                f"{where} of category {self.category_ids[i]} has score {self.scores[i]}."
            )
        if self.boxes is not None:
            for box in self.boxes[~np.isfinite(self.boxes).all(axis=1)].tolist():
                raise ValueError(f"{where} has bbox {box}; expected finite numbers.")

    def counted(
        self,
        iou_type: str,
        max_detections: int,
        image: Mapping[str, Any],
        objects: Sequence[Mapping[str, Any]],
    ) -> "Detections":
        """
        The detections that LVIS evaluation takes: the ``max_detections`` highest scores, and of
        those the ones that have an area and a class that was verified in the image. In this order,
        as in the official code: an empty mask takes a place from another detection. Highest score
        first.

        Args:
            iou_type: "bbox" or "segm".
            max_detections: -1 for all.
            image: with "height", "width" and "neg_category_ids".
            objects: annotations of the image; with the negatives they say which classes were
                verified.

        Raises:
            ValueError: as :meth:`check_masks`, of a mask among them.
        """
        verified = {a["category_id"] for a in objects if a["area"] > 0}
        verified.update(image["neg_category_ids"])
        # Beside a box, all engines take the box's area for the mask's.
        unused: dict[str, Any] = {"bbox": {"masks": None}, "segm": {"boxes": None}}[iou_type]
        detections = dataclasses.replace(self, **unused)
        # Stable, so that of tied detections the first ones stay.
        indices = np.argsort(-self.scores, kind="stable")
        indices = indices if max_detections < 0 else indices[:max_detections]
        is_verified = [k in verified for k in self.category_ids[indices].tolist()]
        detections = detections.select(indices[is_verified])
        if iou_type == "bbox":
            return detections.select(np.flatnonzero(detections.box_areas > 0))
        detections.check_masks((image["height"], image["width"]))
        has_area = np.flatnonzero(detections.mask_areas > 0)
        counted = detections.select(has_area)
        # Not to be computed again.
        vars(counted)["mask_areas"] = detections.mask_areas[has_area]
        return counted

    def check_masks(self, image_size: Sequence[int]) -> None:
        """
        Raises:
            ValueError: a mask is no compressed RLE of the image's (height, width), or is broken.
        """
        where, size = f"Detection in image {self.image_id!r}", list(image_size)
        masks: Any = self.masks
        try:
            sizes = [list(mask["size"]) for mask in masks]
            has_counts = {type(mask["counts"]) for mask in masks} <= {str, bytes}
        except (KeyError, TypeError):  # polygons, None, or what not
            has_counts = False
        if not has_counts:
            raise ValueError(f"{where} has a 'segmentation' that is no compressed RLE.")
        if sizes != [size] * len(sizes):
            wrong = next(other for other in sizes if other != size)
            raise ValueError(
                f"{where} has a mask of size {wrong}, but the image is {size} (height, width)."
            )
        _ = self.mask_areas  # an error if one is broken; kept for whoever needs them


def _rles(instances):
    if instances.has("pred_rles"):
        return instances.pred_rles
    if not instances.has("pred_masks"):
        return None
    masks = instances.pred_masks
    return encode_masks(masks.tensor if isinstance(masks, BitMasks) else torch.as_tensor(masks))
