"""Boxes and outlines of an image's objects and detections, small enough for a page."""

import base64
import dataclasses
import io
import os
from collections import defaultdict
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
from PIL import Image, ImageOps

from ..detections import Detections
from ..result import Result
from ..results_file import ResultsFile

# Overlays are in whole units, of which the longest side of an image has so many.
LONGEST_SIDE = 640
# Pixels of a picture's longest side. WebP is a third smaller than JPEG that looks the same.
PICTURE_SIDE = 288
PICTURE_QUALITY = 50
# At most so many objects, and detections, are drawn on one picture.
MAX_DRAWN = 40
# Overlap of boxes from which a detection of another class is named at a missed object.
MIN_IOU = 0.5


class Overlays:
    """The objects and detections of one class in one image, to be drawn."""

    def __init__(self, result: Result, iou_type: str, score_threshold: float):
        """
        Args:
            result: its matches tell right from wrong.
            iou_type: "segm" or "bbox", by which detections were matched.
            score_threshold: detections below it are not drawn.
        """
        self._result = result
        self._iou_type = iou_type
        self._threshold = score_threshold
        self._matches = result.matches[iou_type]
        self._category_ids = [category["id"] for category in result.categories]
        self._images = {image["id"]: image for image in result.ground_truth["images"]}
        self._annotations = defaultdict(list)
        for annotation in result.ground_truth["annotations"]:
            self._annotations[annotation["image_id"]].append(annotation)
        self._results = ResultsFile(result.results_file)

    def picture(self, image_id: int) -> dict[str, Any]:
        """ "url" (None without its file), "file_name", "width" and "height" in units."""
        image, scale = self._images[image_id], self._scale(image_id)
        path = self._result.file_names.get(str(image_id)) or ""
        return {
            "url": thumbnail(path),
            "file_name": os.path.basename(path) or f"image {image_id}",
            "width": round(image["width"] * scale),
            "height": round(image["height"] * scale),
        }

    def detections(self, image_id: int) -> Detections:
        """Detections of an image that were matched, in descending order of score."""
        detections = self._results.detections(image_id)
        if not len(detections.scores):
            # Of a file without detections it is not known whether they have masks.
            return Detections.from_results(image_id, [], ["bbox"])
        if self._iou_type not in detections.iou_types:
            raise ValueError(f"{self._results.path}: not all detections have masks.")
        image, annotations = self._images[image_id], self._annotations[image_id]
        counted = detections.counted(
            self._iou_type, self._result.max_detections, image, annotations
        )
        if counted.masks is not None:
            boxes = mask_util.toBbox(list(counted.masks)).reshape(-1, 4)
            counted = dataclasses.replace(counted, boxes=boxes)
        return counted

    def objects_of_class(
        self, image_id: int, k: int, detections: Detections
    ) -> list[dict[str, Any]]:
        """
        Objects, missed ones first, each with "box" (x, y, width, height), "path" (an SVG path; ""
        without a mask), "score" of the detection that found it, or None, and "instead", (class,
        score) of a detection of another class that covers a missed object, or None.
        """
        rows = slice(*np.searchsorted(self._matches.gt_image_ids, [image_id, image_id + 1]))
        ids, scores = self._matches.gt_annotation_ids[rows], self._matches.gt_scores[rows]
        score_of = dict(zip(ids.tolist(), scores.tolist(), strict=True))
        objects = []
        for annotation in self._annotations[image_id]:
            # The evaluation takes no notice of annotations without area.
            score = score_of.get(annotation["id"])
            if annotation["category_id"] != self._category_ids[k] or score is None:
                continue
            is_found = score >= self._threshold
            objects.append(
                {
                    **self._shape(image_id, annotation["bbox"], annotation.get("segmentation")),
                    "score": score if is_found else None,
                    "instead": None if is_found else self._instead(annotation, detections),
                }
            )
        return sorted(objects, key=lambda drawn: drawn["score"] is not None)[:MAX_DRAWN]

    def detections_of_class(
        self, image_id: int, k: int, detections: Detections
    ) -> list[dict[str, Any]]:
        """
        Detections, each with "box", "path", "score" and "verdict": "right", "wrong" or "ignored".

        Raises:
            ValueError: the detections are not those that were evaluated.
        """
        matches = self._matches
        assert detections.boxes is not None, "of masks, too"
        of_class = np.flatnonzero(detections.category_ids == self._category_ids[k])
        rows = np.arange(*np.searchsorted(matches.image_ids, [image_id, image_id + 1]))
        rows = rows[matches.classes[rows] == k]
        # Both in descending order, tied ones as in the file.
        if not np.array_equal(matches.scores[rows], detections.scores[of_class]):
            raise ValueError(
                f"{self._results.path}: detections of image {image_id} are not those that were "
                "evaluated; evaluate again."
            )
        drawn = []
        for row, i in zip(rows[:MAX_DRAWN].tolist(), of_class.tolist(), strict=False):
            if detections.scores[i] >= self._threshold:
                verdict = "right" if matches.annotation_ids[row] > 0 else "wrong"
                mask = None if detections.masks is None else detections.masks[i]
                drawn.append(
                    {
                        **self._shape(image_id, detections.boxes[i].tolist(), mask),
                        "score": float(detections.scores[i]),
                        "verdict": "ignored" if matches.ignored[row] else verdict,
                    }
                )
        return drawn

    def _instead(self, annotation, detections):
        """The other class's detection whose box overlaps the object's most, if that is enough."""
        is_other = detections.category_ids != annotation["category_id"]
        others = np.flatnonzero(is_other & (detections.scores >= self._threshold))
        if not len(others):
            return None
        box = np.array([annotation["bbox"]], dtype=np.float64)
        ious = mask_util.iou(detections.boxes[others], box, [0])[:, 0]
        best = others[ious.argmax()]
        if ious.max() < MIN_IOU:
            return None
        k = self._category_ids.index(detections.category_ids[best])
        return k, float(detections.scores[best])

    def _shape(self, image_id, box, segmentation):
        image, scale, path = self._images[image_id], self._scale(image_id), ""
        if self._iou_type == "segm" and segmentation is not None:
            path = outline(segmentation, image["height"], image["width"], scale)
        return {"box": [round(x * scale) for x in box], "path": path}

    def _scale(self, image_id):
        image = self._images[image_id]
        return LONGEST_SIDE / max(image["height"], image["width"])


def outline(
    segmentation: list[list[float]] | dict[str, Any], height: int, width: int, scale: float
) -> str:
    """
    The outline of a mask as an SVG path in whole units.

    Args:
        segmentation: polygons, or RLE.
        height, width: of its image.
        scale: units of the path per pixel.
    """
    if isinstance(segmentation, list):
        contours = [np.reshape(polygon, (-1, 2)) for polygon in segmentation]
    else:
        contours = _contours(segmentation, height, width)
    paths = []
    for contour in contours:
        points = np.round(np.asarray(contour) * scale).astype(int)
        steps = np.diff(points, axis=0)
        steps = steps[np.any(steps != 0, axis=1)]
        relative = " ".join(f"{x} {y}" for x, y in steps.tolist())
        paths.append(f"M{points[0, 0]} {points[0, 1]}l{relative}z" if relative else "")
    return "".join(paths)


def thumbnail(path: str) -> str | None:
    """A small copy of an image file as a data URL; None if there is no such file, or no image."""
    try:
        with Image.open(path) as image:
            # Decodes a JPEG at a fraction of its size, which is several times faster.
            image.draft("RGB", (2 * PICTURE_SIDE, 2 * PICTURE_SIDE))
            image = ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, Image.DecompressionBombError):
        return None
    image.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "WEBP", quality=PICTURE_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"


def _contours(rle, height, width):
    if isinstance(rle["counts"], list):
        rle = mask_util.frPyObjects(rle, height, width)
    x, y, w, h = mask_util.toBbox(rle).astype(int)
    mask = np.ascontiguousarray(mask_util.decode(rle)[y : y + h, x : x + w])
    if not mask.size:
        return []
    contours, _ = cv2.findContours(
        mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(int(x), int(y))
    )
    # Half a unit off is not seen.
    tolerance = 0.5 * max(height, width) / LONGEST_SIDE
    return [cv2.approxPolyDP(contour, tolerance, True)[:, 0] + 0.5 for contour in contours]
