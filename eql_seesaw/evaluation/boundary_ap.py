"""Boundary AP: mask AP that asks for good outlines, by the LVIS rules."""

import pickle
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from hotcoco import mask as hotcoco_mask

from .batch import Batch
from .lvis_result import average_precisions

# All, small, medium and large.
AREA_RANGES = np.array([(0, 1e5**2), (0, 32**2), (32**2, 96**2), (96**2, 1e5**2)])
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0, 1, 101)
NUM_FLAGS = len(AREA_RANGES) * len(IOU_THRESHOLDS)

# One detection that counts: what remains of it once its image is matched. The last two are
# (area range, IoU threshold) flags, eight to a byte.
MATCHED_DETECTION = np.dtype(
    [
        ("image_id", np.int64),
        ("class", np.int32),
        ("score", np.float64),
        ("true_positive", np.uint8, NUM_FLAGS // 8),
        ("false_positive", np.uint8, NUM_FLAGS // 8),
    ]
)


class BoundaryAP:
    """
    Boundary AP (Cheng et al., arXiv 2103.16562) by the LVIS rules, some images at a time.

    AP whose IoU is the smaller of the IoU of two masks and the IoU of their boundaries: the pixels
    of a mask that are within ``dilation_ratio`` times the image's diagonal of its outside. What is
    outside of the image is outside of the mask. All else is as for mask AP.

    No engine that we know has this for LVIS, merges processes and is public. What is kept of a
    detection are 30 bytes. The numbers are the same, to the bit, in whatever order and by however
    many processes images were added.
    """

    def __init__(self, ground_truth: dict, dilation_ratio: float = 0.02):
        """
        Args:
            ground_truth: as ``load_ground_truth`` returns it.
            dilation_ratio: width of the boundary, in diagonals of the image; rounded to whole
                pixels, at least one. 0.02 is what the paper's authors and LVIS's 2021 challenge
                take (which, unlike this, has no limit per image). Numbers of different widths
                cannot be compared.
        """
        categories = ground_truth["categories"]
        self._dilation_ratio = dilation_ratio
        self._classes = {category["id"]: k for k, category in enumerate(categories)}
        self._groups = np.array([category["frequency"] for category in categories])
        self._num_annotations = np.zeros((len(categories), len(AREA_RANGES)), dtype=np.int64)
        self._matched = [np.empty(0, MATCHED_DETECTION)]

    def add(self, batch: Batch) -> None:
        """Objects and detections need masks."""
        for image, objects, of_image in zip(
            batch.images, batch.objects, batch.counted, strict=True
        ):
            classes = [self._classes[annotation["category_id"]] for annotation in objects]
            np.add.at(self._num_annotations, classes, _to_find(objects))
            self._matched.append(self._match_image(image, objects, of_image))

    def state(self) -> bytes:
        return pickle.dumps((self._num_annotations, np.concatenate(self._matched)))

    def merge(self, states: Iterable[bytes]) -> None:
        for state in states:
            num_annotations, matched = pickle.loads(state)
            self._num_annotations += num_annotations
            self._matched.append(matched)

    def finish(self) -> dict[str, float | None]:
        """
        Returns:
            AP, AP50, AP75, APs, APm, APl, APr, APc and APf, in percent. None where there is no
            ground truth; 0 without detections.
        """
        return average_precisions(self._precision(), self._groups)

    def _match_image(self, image, objects, detections):
        """Records of an image's detections, in descending order of score."""
        detections = detections.select(np.argsort(-detections.scores, kind="stable"))
        annotations, rows = defaultdict(list), defaultdict(list)
        for annotation in objects:
            annotations[annotation["category_id"]].append(annotation)
        category_ids = detections.category_ids.tolist()
        for i, category_id in enumerate(category_ids):
            rows[category_id].append(i)

        matched = np.zeros((len(category_ids), len(AREA_RANGES), len(IOU_THRESHOLDS)), dtype=bool)
        ignored = np.zeros_like(matched)
        for category_id in annotations.keys() & rows.keys():
            of_class, cell = annotations[category_id], rows[category_id]
            ious = self._ious(image, [detections.masks[i] for i in cell], of_class)
            matched[cell], ignored[cell] = _match(ious, _to_find(of_class).T)
        not_exhaustive = set(image["not_exhaustive_category_ids"])
        ignorable = ~_in_area_ranges(detections.mask_areas)
        ignorable[[category_id in not_exhaustive for category_id in category_ids]] = True

        records = np.empty(len(category_ids), MATCHED_DETECTION)
        records["image_id"] = image["id"]
        records["class"] = [self._classes[category_id] for category_id in category_ids]
        records["score"] = detections.scores
        records["true_positive"] = _pack(matched & ~ignored)
        records["false_positive"] = _pack(~matched & ~ignorable[:, :, None])
        return records

    def _ious(self, image, rles, annotations):
        """(D, G) IoUs of masks or of boundaries, the smaller; exact where a match is possible."""
        size = image["height"], image["width"]
        annotation_rles = [_annotation_rle(a["segmentation"], *size) for a in annotations]
        ious = hotcoco_mask.iou(rles, annotation_rles, [False] * len(annotation_rles))
        # Boundaries are costly, and cannot make a match of masks that do not overlap enough.
        pairs = np.argwhere(ious >= IOU_THRESHOLDS[0])
        width = max(int(round(self._dilation_ratio * np.sqrt(size[0] ** 2 + size[1] ** 2))), 1)
        boundaries = {d: _boundary(rles[d], width) for d in set(pairs[:, 0])}
        of_annotations = {g: _boundary(annotation_rles[g], width) for g in set(pairs[:, 1])}
        for d, g in pairs:
            iou = _boundary_iou(boundaries[d], of_annotations[g])
            ious[d, g] = min(ious[d, g], iou)
        return ious

    def _precision(self):
        """(T, R, K, A) precision, as the official code's; -1 without ground truth."""
        shape = len(IOU_THRESHOLDS), len(RECALL_THRESHOLDS), *self._num_annotations.shape
        precision = -np.ones(shape)
        matched = np.concatenate(self._matched)
        # Equal scores count in the order of image ids.
        matched = matched[np.lexsort((matched["image_id"], -matched["score"], matched["class"]))]
        ends = np.searchsorted(matched["class"], np.arange(len(self._classes)), side="right")
        for k, of_class in enumerate(np.split(matched, ends[:-1])):
            true_positive = _unpack(of_class["true_positive"])
            false_positive = _unpack(of_class["false_positive"])
            for a in np.flatnonzero(self._num_annotations[k]):
                precision[:, :, k, a] = _precision_at_recalls(
                    true_positive[:, a].T, false_positive[:, a].T, self._num_annotations[k, a]
                )
        return precision


def _in_area_ranges(areas):
    """(N,) areas to (N, A) flags; both ends of a range belong to it."""
    return (areas[:, None] >= AREA_RANGES[:, 0]) & (areas[:, None] <= AREA_RANGES[:, 1])


def _to_find(annotations):
    """(G, A) flags: what is to be found in an area range; other annotations are ignored there."""
    areas = np.array([a["area"] for a in annotations], dtype=np.float64)
    ignored = np.array([bool(a.get("ignore")) for a in annotations], dtype=bool)
    return _in_area_ranges(areas) & ~ignored[:, None]


def _annotation_rle(segmentation, height, width):
    if isinstance(segmentation, list):
        return hotcoco_mask.merge(hotcoco_mask.frPyObjects(segmentation, height, width))
    return segmentation


def _boundary(rle, width):
    """The boundary of a mask: its bounding box x, y and what is in it, (w, h) of 0 and 1."""
    import cv2

    x, y, w, h = hotcoco_mask.toBbox(rle).astype(int)
    mask = np.ascontiguousarray(hotcoco_mask.decode(rle).T[x : x + w, y : y + h])
    kernel = np.ones((2 * width + 1, 2 * width + 1), dtype=np.uint8)
    inside = cv2.erode(mask, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return x, y, mask - inside


def _boundary_iou(one, other):
    (x1, y1, boundary1), (x2, y2, boundary2) = one, other
    x, y = max(x1, x2), max(y1, y2)
    overlap1, overlap2 = boundary1[x - x1 :, y - y1 :], boundary2[x - x2 :, y - y2 :]
    w, h = np.minimum(overlap1.shape, overlap2.shape)
    intersection = np.count_nonzero(overlap1[:w, :h] & overlap2[:w, :h])
    union = np.count_nonzero(boundary1) + np.count_nonzero(boundary2) - intersection
    return intersection / union


def _match(ious, to_find):
    """
    The official greedy matching, for all area ranges and thresholds at once.

    Args:
        ious: (D, G), detections in descending order of score.
        to_find: (A, G) flags of annotations.

    Returns:
        (D, A, T) flags each: detections that have an annotation, and whether it is to be ignored.
    """
    num_detections, num_annotations = ious.shape
    num_areas, num_thresholds = len(to_find), len(IOU_THRESHOLDS)
    matched = np.zeros((num_detections, num_areas, num_thresholds), dtype=bool)
    ignored = np.zeros_like(matched)
    free = np.ones((num_areas, num_thresholds, num_annotations), dtype=bool)
    for d in np.flatnonzero((ious >= IOU_THRESHOLDS[0]).any(axis=1)):
        candidates = free & (ious[d] >= IOU_THRESHOLDS[:, None])
        preferred = candidates & to_find[:, None]
        candidates = np.where(preferred.any(axis=2, keepdims=True), preferred, candidates)
        # The largest IoU; of equal ones, the last annotation.
        best = np.where(candidates, ious[d], -1)[:, :, ::-1].argmax(axis=2)
        best = num_annotations - 1 - best
        a, t = np.nonzero(candidates.any(axis=2))
        g = best[a, t]
        matched[d, a, t] = True
        ignored[d, a, t] = ~to_find[a, g]
        free[a, t, g] = False
    return matched, ignored


def _precision_at_recalls(true_positive, false_positive, num_annotations):
    """(T, N) flags of detections in descending order of score to (T, R) precisions."""
    tp, fp = true_positive.cumsum(axis=1), false_positive.cumsum(axis=1)
    recall = tp / num_annotations
    precision = tp / (fp + tp + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # Recalls that are never reached have precision 0.
    precision = np.pad(precision, ((0, 0), (0, 1)))
    reached = [np.searchsorted(of_threshold, RECALL_THRESHOLDS) for of_threshold in recall]
    return np.take_along_axis(precision, np.array(reached), axis=1)


def _pack(flags):
    """(N, A, T) flags to (N, 5) bytes, eight flags each."""
    return np.packbits(flags.reshape(len(flags), NUM_FLAGS), axis=1)


def _unpack(packed):
    flags = np.unpackbits(packed, axis=1)
    return flags.reshape(len(packed), len(AREA_RANGES), len(IOU_THRESHOLDS))
