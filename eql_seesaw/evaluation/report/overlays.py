"""Boxes and outlines of an image's objects and detections, small enough for a page."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from ..detections import Detections
from ..results_file import ResultsFile
from .run import Run

# Overlays are in whole units, of which the longest side of an image has so many.
LONGEST_SIDE = 640
# At most so many objects, and detections, are drawn on one picture.
MAX_DRAWN = 40
# Overlap of boxes from which a detection of another class is named at a missed object.
MIN_IOU = 0.5


class Overlays:
    """Draws the objects and detections of one class in one image at a time."""

    def __init__(
        self,
        run: Run,
        task: str,
        ground_truth: dict[str, Any],
        results: ResultsFile,
        score_threshold: float,
    ):
        """
        Args:
            run: its matches tell right from wrong.
            task: "segm" or "bbox", by which detections were matched.
            ground_truth: of ``load_ground_truth``.
            results: the detections that were evaluated.
            score_threshold: detections below it are not drawn.
        """
        self._task = task
        self._threshold = score_threshold
        self._max_detections = run.evaluation.max_detections
        self._matches = run.matches[task]
        self._category_ids = [category["id"] for category in run.categories]
        self._classes = {category_id: k for k, category_id in enumerate(self._category_ids)}
        self._images = {image["id"]: image for image in ground_truth["images"]}
        self._annotations = defaultdict(list)
        for annotation in ground_truth["annotations"]:
            self._annotations[annotation["image_id"]].append(annotation)
        self._results = results

    def size(self, image_id: int) -> tuple[int, int]:
        """(width, height) of an image in the units of the overlays."""
        image, scale = self._images[image_id], self._scale(image_id)
        return round(image["width"] * scale), round(image["height"] * scale)

    def of_image(self, image_id: int, classes: Sequence[int]) -> dict[int, dict[str, list]]:
        """
        Returns:
            For each of ``classes``: "objects", each with "box" (x, y, width, height), "path" (an
            SVG path, only with a mask), "score" of the detection that found it, or None, and, if
            one covers a missed object, "instead", [class, score] of a detection of another class;
            and "detections", each with "box", "path", "score" and "verdict": "right", "wrong" or
            "ignored". Those that are not drawn, because they are too many, are left out.

        Raises:
            ValueError: the detections are not those that were evaluated.
        """
        detections = self._counted(image_id)
        return {
            k: {
                "objects": self._objects(image_id, k, detections),
                "detections": self._detections(image_id, k, detections),
            }
            for k in classes
        }

    def _counted(self, image_id):
        """Those that were matched, in descending order of score."""
        image = self._images[image_id]
        verified = {a["category_id"] for a in self._annotations[image_id] if a["area"] > 0}
        verified.update(image["neg_category_ids"])
        size = image["height"], image["width"]
        detections = self._results.detections(image_id)
        if not len(detections.scores):
            # Of a file without detections it is not known whether they have masks.
            detections = Detections.from_results(image_id, [], [self._task])
        if self._task not in detections.iou_types:
            raise ValueError(f"{self._results.path}: not all detections have masks.")
        counted = detections.counted(self._task, self._max_detections, verified, size)
        counted = counted.select(np.argsort(-counted.scores, kind="stable"))
        if self._task == "segm" and len(counted.scores):
            boxes = mask_util.toBbox(list(counted.masks)).reshape(-1, 4)
            counted = dataclasses.replace(counted, boxes=boxes)
        return counted

    def _objects(self, image_id, k, detections):
        category_id = self._category_ids[k]
        rows = _rows(self._matches.gt_image_ids, image_id)
        ids, scores = self._matches.gt_annotation_ids[rows], self._matches.gt_scores[rows]
        score_of = dict(zip(ids.tolist(), scores.tolist(), strict=True))
        is_other = (detections.category_ids != category_id) & (detections.scores >= self._threshold)
        others = detections.select(np.flatnonzero(is_other))
        objects = []
        for annotation in self._annotations[image_id]:
            # The evaluation takes no notice of annotations without area.
            score = score_of.get(annotation["id"])
            if annotation["category_id"] != category_id or score is None:
                continue
            shape = self._shape(image_id, annotation["bbox"], annotation.get("segmentation"))
            if score >= self._threshold:
                objects.append({**shape, "score": score})
            else:
                instead = self._instead(annotation, others)
                objects.append({**shape, "score": None, **instead})
        return sorted(objects, key=lambda drawn: drawn["score"] is not None)[:MAX_DRAWN]

    def _instead(self, annotation, others):
        """The other class's detection whose box overlaps the object's most, if that is enough."""
        if not len(others.scores):
            return {}
        box = np.array([annotation["bbox"]], dtype=np.float64)
        ious = mask_util.iou(others.boxes, box, [0])[:, 0]
        best = int(ious.argmax())
        if ious[best] < MIN_IOU:
            return {}
        k = self._classes[int(others.category_ids[best])]
        return {"instead": [k, float(others.scores[best])]}

    def _detections(self, image_id, k, detections):
        of_class = np.flatnonzero(detections.category_ids == self._category_ids[k])
        rows = _rows(self._matches.image_ids, image_id)
        rows = rows[self._matches.classes[rows] == k]
        # Both in descending order, tied ones as in the file.
        if not np.array_equal(self._matches.scores[rows], detections.scores[of_class]):
            raise ValueError(
                f"{self._results.path}: detections of image {image_id} are not those that were "
                "evaluated; evaluate again."
            )
        drawn = []
        for row, i in zip(rows[:MAX_DRAWN].tolist(), of_class.tolist(), strict=False):
            if detections.scores[i] >= self._threshold:
                is_right = self._matches.annotation_ids[row] > 0
                verdict = "right" if is_right else "wrong"
                mask = None if detections.masks is None else detections.masks[i]
                drawn.append(
                    {
                        **self._shape(image_id, detections.boxes[i].tolist(), mask),
                        "score": float(detections.scores[i]),
                        "verdict": "ignored" if self._matches.ignored[row] else verdict,
                    }
                )
        return drawn

    def _shape(self, image_id, box, segmentation):
        scale = self._scale(image_id)
        shape = {"box": [round(x * scale) for x in box]}
        if self._task == "segm" and segmentation is not None:
            image = self._images[image_id]
            shape["path"] = outline(segmentation, image["height"], image["width"], scale)
        return shape

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


def _contours(rle, height, width):
    import cv2

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


def _rows(image_ids: np.ndarray, image_id: int) -> np.ndarray:
    first, last = np.searchsorted(image_ids, [image_id, image_id + 1])
    return np.arange(first, last)
