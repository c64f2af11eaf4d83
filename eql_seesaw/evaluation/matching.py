"""Matching of detections and objects by the LVIS rules, once for all that is made of it."""

import pickle
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from hotcoco import mask as hotcoco_mask

from .boundary import boundary_ious
from .detections import Detections
from .lvis_result import AREA_RANGES, IOU_THRESHOLDS, LVISResult, precision_and_recall
from .matches import CONFUSION_SCORE, Matches

# A set of pairs (area range, IoU threshold) is an integer with a bit for each, so that all are
# matched at once. The lowest bits are of all areas, the lowest one of the IoU threshold 0.5.
NUM_IOUS, NUM_PAIRS = len(IOU_THRESHOLDS), len(AREA_RANGES) * len(IOU_THRESHOLDS)
AREA_SHIFTS = NUM_IOUS * np.arange(len(AREA_RANGES), dtype=np.uint64)
EVERY_PAIR = (1 << NUM_PAIRS) - 1
ALL_AREAS, ALL_AREAS_IOU_50 = 0, 1
# Pairs whose IoU threshold is among the first n, for n from 0 to 10.
REACHED = [sum(((1 << n) - 1) << int(a) for a in AREA_SHIFTS) for n in range(NUM_IOUS + 1)]

# A detection that counts, once its image is matched, and the pairs for which it is right and wrong;
# where it is neither, it does not count.
DETECTION = np.dtype(
    [
        ("image_id", np.int64),
        ("class", np.int32),
        ("score", np.float64),
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


class Matching:
    """
    Matching of one kind of region, image by image.

    IoUs of an image are computed once, by hotcoco. AP, AR, calibration, confusions and the report
    are made of the outcome, 44 bytes a detection, which processes can merge: the numbers are the
    same, to the bit, in whatever order and by however many processes images were added.
    """

    def __init__(self, categories: Sequence[dict[str, Any]], iou_type: str, max_detections: int):
        """
        Args:
            categories: of the ground truth, with "frequency", in ascending order of id.
            iou_type: "bbox", "segm", or "boundary" (see :func:`.boundary.boundary_ious`).
            max_detections: that count per image, over all its classes; -1 for all.
        """
        self._categories = categories
        self._iou_type = iou_type
        self._max_detections = max_detections
        self._classes = {category["id"]: k for k, category in enumerate(categories)}
        self._detections = [np.empty(0, DETECTION)]
        self._objects = [np.empty(0, OBJECT)]
        self._confusions: Counter[tuple[int, int]] = Counter()

    def add(
        self, image: dict[str, Any], objects: Sequence[dict[str, Any]], detections: Detections
    ) -> None:
        """
        Args:
            image: with "id", "height", "width" and LVIS's two lists of category ids. No image may
                come twice.
            objects: annotations of the image, with ids from 1.
            detections: of the image.

        Raises:
            ValueError: a mask does not fit its image.
        """
        region = "bbox" if self._iou_type == "bbox" else "segm"
        detections = detections.counted(region, self._max_detections, image, objects)
        # The official code takes no notice of objects without area.
        objects = [annotation for annotation in objects if annotation["area"] > 0]
        classes = self._class_indices(detections.category_ids.tolist())
        gt_classes = self._class_indices(a["category_id"] for a in objects)
        is_same_class = classes[:, None] == gt_classes
        ious = self._ious(image, objects, detections, is_same_class)
        to_find = _to_find(objects)
        found, right, object_indices = _match(np.where(is_same_class, ious, 0), _pairs(to_find))

        is_unsure = np.isin(detections.category_ids, image["not_exhaustive_category_ids"])
        areas = detections.box_areas if region == "bbox" else detections.mask_areas
        counts = _in_area_ranges(areas) & ~is_unsure[:, None]
        records = np.empty(len(classes), DETECTION)
        records["image_id"], records["class"] = image["id"], classes
        records["score"] = detections.scores
        records["right"], records["wrong"] = right, ~found & _pairs(counts)
        annotation_ids = np.array([a["id"] for a in objects], dtype=np.int64)
        has_object = object_indices >= 0
        records["annotation_id"] = 0
        records["annotation_id"][has_object] = annotation_ids[object_indices[has_object]]
        self._detections.append(records)

        gt_records = np.empty(len(objects), OBJECT)
        gt_records["image_id"], gt_records["class"] = image["id"], gt_classes
        gt_records["annotation_id"] = annotation_ids
        gt_records["score"] = np.nan
        gt_records["score"][object_indices[has_object]] = detections.scores[has_object]
        gt_records["to_find"] = to_find
        self._objects.append(gt_records)
        is_sure = (detections.scores >= CONFUSION_SCORE) & ~is_unsure
        # By class, as hotcoco has them: of tied scores the first counts, of tied IoUs the last.
        order = np.lexsort((classes, -detections.scores))
        order = order[is_sure[order]]
        gt_order = np.argsort(gt_classes, kind="stable")[::-1]
        self._count_confusions(ious[order][:, gt_order], classes[order], gt_classes[gt_order])

    def state(self) -> bytes:
        """All that was added, for :meth:`merge` in another process."""
        return pickle.dumps(
            (np.concatenate(self._detections), np.concatenate(self._objects), self._confusions)
        )

    def merge(self, states: Iterable[bytes]) -> None:
        """Add the images of others with the same arguments."""
        for state in states:
            detections, objects, confusions = pickle.loads(state)
            self._detections.append(detections)
            self._objects.append(objects)
            self._confusions += confusions

    def result(self) -> LVISResult:
        """LVIS's numbers of all images that were added."""
        detections, objects = np.concatenate(self._detections), np.concatenate(self._objects)
        num_objects = np.zeros((len(self._categories), len(AREA_RANGES)), dtype=np.int64)
        np.add.at(num_objects, objects["class"], objects["to_find"])
        # Equal scores count in the order of image ids.
        order = np.lexsort((detections["image_id"], -detections["score"], detections["class"]))
        detections = detections[order]
        ends = np.searchsorted(detections["class"], np.arange(len(num_objects)), side="right")
        flags = (
            (_flags(of_class["right"]), _flags(of_class["wrong"]))
            for of_class in np.split(detections, ends[:-1])
        )
        arrays = precision_and_recall(flags, num_objects)
        return LVISResult.from_arrays(*arrays, self._categories)

    def matches(self) -> Matches:
        """Detections and objects at an IoU of 0.5, as columns, in an order of their own."""
        detections, objects = np.concatenate(self._detections), np.concatenate(self._objects)
        objects = objects[objects["to_find"][:, ALL_AREAS]]
        # By image and class, then as they are: by descending score.
        detections = detections[np.lexsort((detections["class"], detections["image_id"]))]
        objects = objects[np.lexsort((objects["class"], objects["image_id"]))]
        is_judged = (detections["right"] | detections["wrong"]) & ALL_AREAS_IOU_50 > 0
        confusions = [(*pair, count) for pair, count in sorted(self._confusions.items())]
        return Matches(
            image_ids=detections["image_id"].copy(),
            classes=detections["class"].copy(),
            scores=detections["score"].copy(),
            annotation_ids=detections["annotation_id"].copy(),
            ignored=~is_judged,
            gt_image_ids=objects["image_id"].copy(),
            gt_classes=objects["class"].copy(),
            gt_annotation_ids=objects["annotation_id"].copy(),
            gt_scores=objects["score"].copy(),
            confusions=np.array(confusions, dtype=np.int64).reshape(-1, 3),
        )

    def _class_indices(self, category_ids):
        return np.array([self._classes[category_id] for category_id in category_ids], np.int32)

    def _ious(self, image, objects, detections, is_same_class):
        """(D, G), of detections and objects of all classes."""
        if not objects or not len(detections.scores):
            return np.zeros((len(detections.scores), len(objects)))
        no_crowds = [False] * len(objects)
        if self._iou_type == "bbox":
            boxes = np.array([annotation["bbox"] for annotation in objects], dtype=np.float64)
            return hotcoco_mask.iou(detections.boxes, boxes, no_crowds)
        size = image["height"], image["width"]
        gt_masks = [_as_rle(annotation["segmentation"], *size) for annotation in objects]
        ious = hotcoco_mask.iou(detections.masks, gt_masks, no_crowds)
        if self._iou_type == "segm":
            return ious
        # Boundaries are costly, and cannot make a match of masks that do not overlap enough.
        pairs = np.argwhere(is_same_class & (ious >= IOU_THRESHOLDS[0]))
        return boundary_ious(detections.masks, gt_masks, ious, pairs, size)

    def _count_confusions(self, ious, classes, gt_classes):
        """Pairs of classes: each detection takes the object that it covers best, of any class."""
        free = np.ones(len(gt_classes), dtype=bool)
        for d in np.flatnonzero((ious >= IOU_THRESHOLDS[0]).any(axis=1)):
            candidates = np.where(free, ious[d], -1)
            g = int(candidates.argmax())
            if candidates[g] >= IOU_THRESHOLDS[0]:
                free[g] = False
                if gt_classes[g] != classes[d]:
                    self._confusions[int(gt_classes[g]), int(classes[d])] += 1


def _as_rle(segmentation, height, width):
    if isinstance(segmentation, list):
        return hotcoco_mask.merge(hotcoco_mask.frPyObjects(segmentation, height, width))
    return segmentation


def _in_area_ranges(areas):
    """(N,) areas to (N, A) flags; both ends of a range belong to it."""
    return (areas[:, None] >= AREA_RANGES[:, 0]) & (areas[:, None] <= AREA_RANGES[:, 1])


def _to_find(objects):
    """(G, A) flags: what is to be found in an area range; other objects are ignored there."""
    areas = np.array([a["area"] for a in objects], dtype=np.float64)
    ignored = np.array([bool(a.get("ignore")) for a in objects], dtype=bool)
    return _in_area_ranges(areas) & ~ignored[:, None]


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


def _flags(pairs):
    """uint64 (N,) pairs to (N, A, T) of 0 and 1."""
    bits = pairs[:, None] >> np.arange(NUM_PAIRS, dtype=np.uint64) & np.uint64(1)
    return bits.astype(np.uint8).reshape(len(pairs), len(AREA_RANGES), NUM_IOUS)
