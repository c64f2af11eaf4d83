"""For every class, the images where the model does best and worst, and what is drawn on them."""

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
from tqdm import tqdm

from ...data.annotation_entries import compressed_rle
from ..result import Result
from .numbers import Numbers

EXAMPLES = 4
# So that a report of LVIS's 1,203 classes is no larger than a few dozen megabytes.
MANY_CLASSES = 300
EXAMPLES_OF_MANY = 2
# Shapes are in whole units, of which the longest side of an image has so many.
LONGEST_SIDE = 640
# Pixels of a picture's longest side. WebP is a third smaller than JPEG that looks the same.
PICTURE_SIDE = 288
PICTURE_QUALITY = 50
# At most so many objects, and detections, are drawn on one picture.
MAX_DRAWN = 40
# Overlap of boxes from which a detection of another class is named at a missed object.
MIN_IOU = 0.5

# {"best": images, "worst": images}
Examples = dict[str, list[dict[str, Any]]]


def draw_examples(result: Result, numbers: Numbers) -> tuple[list[dict[str, Any]], list[Examples]]:
    """
    Args:
        result: of an evaluation, with its file of detections.
        numbers: of the IoU type that is drawn.

    Returns:
        The pictures that are shown: "url" (None without its file), "file_name", and "width" and
        "height" in units. And for each class what :func:`choose_examples` gives, each image with

        - "picture": index of the picture,
        - "objects", missed ones first, each with "is_missed" and, if another class's detection
          covers it, "instead", that detection,
        - "detections", the highest score first, each with "class", "score" and "verdict" ("right",
          "wrong" or "ignored").

        Both have "box" (x, y, width, height) and "path", the SVG path of a mask, in units.

    Raises:
        FileNotFoundError, ValueError: the annotation file or the detections are not there, broken,
            or not those that were evaluated.
    """
    num_classes = len(result.categories)
    num_examples = EXAMPLES if num_classes <= MANY_CLASSES else EXAMPLES_OF_MANY
    examples = choose_examples(numbers.tally, num_classes, num_examples)
    of_images = defaultdict(list)
    for k, of_class in enumerate(examples):
        for example in of_class["best"] + of_class["worst"]:
            of_images[example["image_id"]].append((k, example))
    matches = result.matches[numbers.iou_type]
    gt_ids, gt_scores = matches.gt_annotation_ids.tolist(), matches.gt_scores.tolist()
    score_of_object = dict(zip(gt_ids, gt_scores, strict=True))
    images = {image["id"]: image for image in result.ground_truth["images"]}
    annotations = defaultdict(list)
    for annotation in result.ground_truth["annotations"]:
        annotations[annotation["image_id"]].append(annotation)

    pictures: list[dict[str, Any]] = []
    for image_id in tqdm(sorted(of_images), "pictures", unit="image", disable=None):
        image, of_image = images[image_id], annotations[image_id]
        height, width = image["height"], image["width"]
        scale = LONGEST_SIDE / max(height, width)
        detections = _detections(result, numbers, image, of_image)
        for k, example in of_images[image_id]:
            category_id, objects = result.categories[k]["id"], []
            for annotation in of_image:
                # The evaluation takes no notice of annotations without area.
                if annotation["category_id"] == category_id and annotation["id"] in score_of_object:
                    is_missed = not score_of_object[annotation["id"]] >= numbers.score_threshold
                    instead = _overlapping(annotation, detections) if is_missed else None
                    objects.append({**annotation, "is_missed": is_missed, "instead": instead})
            objects.sort(key=lambda drawn: not drawn["is_missed"])
            drawable = [detection for detection in detections if detection["class"] == k]
            example["picture"] = len(pictures)
            example["objects"], example["detections"] = objects[:MAX_DRAWN], drawable[:MAX_DRAWN]
            for drawn in example["objects"] + example["detections"]:
                drawn["box"] = [round(x * scale) for x in drawn["bbox"]]
                mask = drawn.get("segmentation") if numbers.iou_type == "segm" else None
                drawn["path"] = "" if mask is None else outline(mask, height, width, scale)
        path = result.file_names.get(image_id) or ""
        pictures.append(
            {
                "url": thumbnail(path),
                "file_name": os.path.basename(path) or f"image {image_id}",
                "width": round(width * scale),
                "height": round(height * scale),
            }
        )
    return pictures, examples


def choose_examples(tally: np.ndarray, num_classes: int, num_examples: int) -> list[Examples]:
    """
    Best: images with a right detection, of highest F1. Worst: others with a mistake, with most
    missed objects and wrong detections. Among equals, images that are shown already for other
    classes come first, so that fewer pictures are needed.

    Args:
        tally: of ``tally_images``.

    Returns:
        Of each class up to ``num_examples`` images of either kind, with "image_id", "right",
        "wrong" and "missed".
    """
    classes, image_ids, right, wrong, missed = tally.T
    mistakes = wrong + missed
    f1 = 2 * right / np.maximum(2 * right + mistakes, 1)
    _, image_index = np.unique(image_ids, return_inverse=True)
    is_shown = np.zeros(len(tally), bool)
    bounds = np.searchsorted(classes, np.arange(num_classes + 1))
    examples: list[Examples] = [{} for _ in range(num_classes)]
    # Classes with few images have no choice, so they come first.
    for k in np.argsort(np.diff(bounds), kind="stable"):
        rows = np.arange(bounds[k], bounds[k + 1])
        is_new = ~is_shown[image_index[rows]]
        order = rows[np.lexsort((-right[rows], is_new, -f1[rows]))]
        best = order[right[order] > 0][:num_examples]
        others = np.setdiff1d(rows[mistakes[rows] > 0], best)
        is_new = ~is_shown[image_index[others]]
        worst = others[np.lexsort((is_new, right[others], -mistakes[others]))][:num_examples]
        for kind, chosen in (("best", best), ("worst", worst)):
            is_shown[image_index[chosen]] = True
            names = ("image_id", "right", "wrong", "missed")
            examples[k][kind] = [
                dict(zip(names, row[1:], strict=True)) for row in tally[chosen].tolist()
            ]
    return examples


def _detections(result, numbers, image, annotations):
    """Those that count and reach the threshold, the highest score first."""
    matches, image_id = result.matches[numbers.iou_type], image["id"]
    found = result.detections.detections(image_id)
    # Of a file without detections it is not known whether they have masks.
    if len(found.scores):
        limit = result.max_detections
        counted = found.indices_that_count(numbers.iou_type, limit, image, annotations)
        found = found.select(counted)
    if found.masks is not None:
        boxes = mask_util.toBbox(list(found.masks)).reshape(-1, 4)
        found = dataclasses.replace(found, boxes=boxes)
    # As in the matches: by class, in descending order of score, tied ones as in the file.
    found = found.select(np.argsort(found.category_ids, kind="stable"))
    rows = np.arange(*np.searchsorted(matches.image_ids, [image_id, image_id + 1]))
    if not np.array_equal(matches.scores[rows], found.scores):
        raise ValueError(
            f"{result.results_file}: detections of image {image_id} are not those that were "
            "evaluated; evaluate again."
        )
    detections = found.to_results()
    for row, detection in zip(rows.tolist(), detections, strict=True):
        verdict = "right" if matches.annotation_ids[row] > 0 else "wrong"
        detection["verdict"] = "ignored" if matches.ignored[row] else verdict
        detection["class"] = int(matches.classes[row])
    detections = [d for d in detections if d["score"] >= numbers.score_threshold]
    return sorted(detections, key=lambda detection: -detection["score"])


def _overlapping(annotation, detections):
    """The other class's detection whose box overlaps the object's most, if that is enough."""
    others = [d for d in detections if d["category_id"] != annotation["category_id"]]
    if not others:
        return None
    boxes = np.array([detection["bbox"] for detection in others])
    ious = mask_util.iou(boxes, np.array([annotation["bbox"]], np.float64), [0])[:, 0]
    return others[ious.argmax()] if ious.max() >= MIN_IOU else None


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
        mask = mask_util.decode(compressed_rle(segmentation, height, width))
        method = cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
        found, _ = cv2.findContours(np.ascontiguousarray(mask), *method)
        # Half a unit off is not seen.
        contours = [cv2.approxPolyDP(contour, 0.5 / scale, True)[:, 0] + 0.5 for contour in found]
    paths = []
    for contour in contours:
        points = np.round(contour * scale).astype(int)
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
