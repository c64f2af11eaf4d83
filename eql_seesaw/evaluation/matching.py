"""Matching of an image's detections and objects by the LVIS rules."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hotcoco import mask as hotcoco_mask

from ..data.annotation_entries import compressed_rle
from .boundary import boundary_ious
from .detections import Detections
from .lvis_result import AREA_RANGES, IOU_THRESHOLDS
from .matches import CONFUSION_SCORE

# A set of pairs (area range, IoU threshold) is an integer with a bit for each, so that all are
# matched at once. The lowest bits are of all areas, the lowest one of the IoU threshold 0.5.
NUM_IOUS, NUM_PAIRS = len(IOU_THRESHOLDS), len(AREA_RANGES) * len(IOU_THRESHOLDS)
AREA_SHIFTS = NUM_IOUS * np.arange(len(AREA_RANGES), dtype=np.uint64)
EVERY_PAIR = (1 << NUM_PAIRS) - 1
ALL_AREAS, ALL_AREAS_IOU_50 = 0, 1
# Pairs whose IoU threshold is among the first n, for n from 0 to 10.
REACHED = [sum(((1 << n) - 1) << int(a) for a in AREA_SHIFTS) for n in range(NUM_IOUS + 1)]

# A detection, once its image is matched, and the pairs for which it is right and wrong; where it is
# neither, it does not count.
DETECTION = np.dtype(
    [
        ("image_id", np.int64),
        ("class", np.int32),
        ("score", np.float64),
        ("counts", np.bool_),  # among the highest scores of its image, and verified there
        ("annotation_id", np.int64),  # the object that it found at an IoU of 0.5, or 0
        ("right", np.uint64),
        ("wrong", np.uint64),
    ]
)
# An object: the ranges of area in which it is to be found, and the score that found it, or NaN.
OBJECT = np.dtype(
    [
        ("image_id", np.int64),
        ("class", np.int32),
        ("annotation_id", np.int64),
        ("score", np.float64),
        ("to_find", np.bool_, len(AREA_RANGES)),
    ]
)


def match_image(
    image: Mapping[str, Any],
    objects: Sequence[Mapping[str, Any]],
    detections: Detections,
    iou_type: str,
    classes: Mapping[int, int],
    max_detections: int,
    keep_all: bool = False,
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int]]]:
    """
    Args:
        image: with "id", "height", "width" and LVIS's two lists of category ids.
        objects: annotations of the image, with ids from 1.
        detections: of the image.
        iou_type: "bbox", "segm", or "boundary" (see :func:`.boundary.boundary_ious`).
        classes: index of each category id.
        max_detections: that count per image, over all its classes.
        keep_all: also match detections beyond ``max_detections``, and return those that can be
            neither right nor wrong, too. Whoever comes first is not touched by it.

    Returns:
        ``DETECTION`` records in descending order of score, those that count or all; ``OBJECT``
        records; and confusions: for each detection of another class than the object that it covers
        best, that object's class and its own.

    Raises:
        ValueError: a mask does not fit its image, or an object has none.
    """
    region = "bbox" if iou_type == "bbox" else "segm"
    for annotation in objects if region == "segm" else ():
        if "segmentation" not in annotation:
            raise ValueError(
                f"Ground truth annotation {annotation['id']} of image {image['id']!r} has no "
                "'segmentation', so mask AP cannot be computed."
            )
    detections = detections.select(np.argsort(-detections.scores, kind="stable"))
    limit = -1 if keep_all else max_detections
    counted = detections.indices_that_count(region, limit, image, objects)
    # The official code takes no notice of objects without area.
    objects = [annotation for annotation in objects if annotation["area"] > 0]
    records = np.zeros(len(detections.scores), DETECTION)
    records["image_id"] = image["id"]
    records["class"] = [classes[k] for k in detections.category_ids.tolist()]
    records["score"] = detections.scores
    is_within_limit = counted < max_detections
    records["counts"][counted] = is_within_limit

    chosen = detections.select(counted)
    own_classes = records["class"][counted]
    gt_classes = np.array([classes[a["category_id"]] for a in objects], np.int32)
    is_same_class = own_classes[:, None] == gt_classes
    ious = _ious(image, objects, chosen, is_same_class, iou_type)
    areas = np.array([a["area"] for a in objects], dtype=np.float64)
    ignored = np.array([bool(a.get("ignore")) for a in objects], dtype=bool)
    to_find = _in_area_ranges(areas) & ~ignored[:, None]
    found, right, object_indices = _match(np.where(is_same_class, ious, 0), _pairs(to_find))

    is_unsure = np.isin(chosen.category_ids, image["not_exhaustive_category_ids"])
    counts = _in_area_ranges(chosen.areas(region)) & ~is_unsure[:, None]
    records["right"][counted], records["wrong"][counted] = right, ~found & _pairs(counts)
    annotation_ids = np.array([a["id"] for a in objects], dtype=np.int64)
    has_object = object_indices >= 0
    records["annotation_id"][counted[has_object]] = annotation_ids[object_indices[has_object]]

    gt_records = np.empty(len(objects), OBJECT)
    gt_records["image_id"], gt_records["class"] = image["id"], gt_classes
    gt_records["annotation_id"] = annotation_ids
    gt_records["score"] = np.nan
    finds = has_object & is_within_limit
    gt_records["score"][object_indices[finds]] = chosen.scores[finds]
    gt_records["to_find"] = to_find

    is_sure = is_within_limit & (chosen.scores >= CONFUSION_SCORE) & ~is_unsure
    # By class, as hotcoco has them: of tied scores the first counts, of tied IoUs the last.
    order = np.lexsort((own_classes, -chosen.scores))
    order = order[is_sure[order]]
    gt_order = np.argsort(gt_classes, kind="stable")[::-1]
    confusions = _confusions(ious[order][:, gt_order], own_classes[order], gt_classes[gt_order])
    return records if keep_all else records[counted], gt_records, confusions


def _ious(image, objects, detections, is_same_class, iou_type):
    """(D, G), of detections and objects of all classes."""
    if not objects or not len(detections.scores):
        return np.zeros((len(detections.scores), len(objects)))
    no_crowds = [False] * len(objects)
    if iou_type == "bbox":
        boxes = np.array([annotation["bbox"] for annotation in objects], dtype=np.float64)
        return hotcoco_mask.iou(detections.boxes, boxes, no_crowds)
    size = image["height"], image["width"]
    gt_masks = [compressed_rle(annotation["segmentation"], *size) for annotation in objects]
    ious = hotcoco_mask.iou(detections.masks, gt_masks, no_crowds)
    if iou_type == "segm":
        return ious
    # Boundaries are costly, and cannot make a match of masks that do not overlap enough.
    pairs = np.argwhere(is_same_class & (ious >= IOU_THRESHOLDS[0]))
    return boundary_ious(detections.masks, gt_masks, ious, pairs, size)


def _confusions(ious, classes, gt_classes):
    """Pairs of classes: each detection takes the object that it covers best, of any class."""
    pairs = []
    free = np.ones(len(gt_classes), dtype=bool)
    for d in np.flatnonzero((ious >= IOU_THRESHOLDS[0]).any(axis=1)):
        candidates = np.where(free, ious[d], -1)
        g = int(candidates.argmax())
        if candidates[g] >= IOU_THRESHOLDS[0]:
            free[g] = False
            if gt_classes[g] != classes[d]:
                pairs.append((int(gt_classes[g]), int(classes[d])))
    return pairs


def _in_area_ranges(areas):
    """(N,) areas to (N, A) flags; both ends of a range belong to it."""
    return (areas[:, None] >= AREA_RANGES[:, 0]) & (areas[:, None] <= AREA_RANGES[:, 1])


def _match(ious, to_find):
    """
    The official greedy matching, for all pairs of area range and IoU threshold at once.

    Args:
        ious: (D, G), detections in descending order of score; 0 for detections and objects of
            different classes.
        to_find: uint64 (G,), pairs for which an object is to be found; for others it is ignored.

    Returns:
        uint64 (D,), pairs for which a detection has an object; uint64 (D,), those of them for which
        that object is to be found; and int64 (D,), the object it has at an IoU of 0.5, if it is to
        be found, else -1.
    """
    num_reached = np.searchsorted(IOU_THRESHOLDS, ious, side="right")
    rows, columns = np.nonzero(num_reached)
    # The largest IoU first; of equal ones, the last object.
    order = np.lexsort((-columns, -ious[rows, columns], rows))
    rows, columns = rows[order], columns[order]
    candidates = defaultdict(list)
    for d, g, n in zip(
        rows.tolist(), columns.tolist(), num_reached[rows, columns].tolist(), strict=True
    ):
        candidates[d].append((g, REACHED[n]))
    to_find = to_find.tolist()
    free = [EVERY_PAIR] * len(to_find)
    found, right = np.zeros((2, len(ious)), dtype=np.uint64)
    objects = np.full(len(ious), -1)
    for d, near in candidates.items():
        without, with_found = EVERY_PAIR, 0
        for g, reached in near:
            taken = free[g] & reached & to_find[g] & without
            free[g] ^= taken
            without ^= taken
            with_found |= taken
            if taken & ALL_AREAS_IOU_50:
                objects[d] = g
        # Objects that are ignored come after all that are to be found.
        for g, reached in near:
            taken = free[g] & reached & ~to_find[g] & without
            free[g] ^= taken
            without ^= taken
        found[d], right[d] = EVERY_PAIR ^ without, with_found
    return found, right, objects


def _pairs(in_areas):
    """(N, A) flags to uint64 (N,): the pairs with these area ranges."""
    of_area = np.uint64((1 << NUM_IOUS) - 1) << AREA_SHIFTS
    return (in_areas * of_area).sum(axis=1, dtype=np.uint64)


def flags(pairs: np.ndarray) -> np.ndarray:
    """uint64 (N,) pairs to (N, areas, IoU thresholds) of 0 and 1."""
    bits = pairs[:, None] >> np.arange(NUM_PAIRS, dtype=np.uint64) & np.uint64(1)
    return bits.astype(np.uint8).reshape(len(pairs), len(AREA_RANGES), NUM_IOUS)
