"""Which detections were right, one by one: what calibration and the report are made of."""

import dataclasses
import pickle
from collections.abc import Iterable, Sequence
from typing import Any

import hotcoco
import numpy as np

from ..atomic_write import atomic_file
from .detections import Detections, counted_detections
from .hotcoco_engine import as_hotcoco_detections, as_hotcoco_objects

# A detection is right if it overlaps an object of its class, not yet taken, at least this much.
IOU_THRESHOLD = 0.5
# Confusions are counted among detections with at least this score.
CONFUSION_SCORE = 0.3


@dataclasses.dataclass(frozen=True)
class Matches:
    """
    Detections and objects of a dataset, matched as LVIS does at an IoU of 0.5, as columns.

    Only detections that count are here: the highest scores of each image, of classes that were
    verified in it. Classes are indices of the categories in ascending order of id.

    Attributes:
        image_ids: int64 (D,), sorted.
        classes: int32 (D,).
        scores: float64 (D,).
        annotation_ids: int64 (D,), the object that a detection found; 0 if it is wrong.
        ignored: bool (D,), neither right nor wrong: without an object, of a class that is not
            exhaustively annotated in the image; or on an object with ``ignore: 1``, which is not
            among the objects here.
        gt_image_ids, gt_classes, gt_annotation_ids: (G,), the objects, sorted by image.
        gt_scores: float64 (G,), the score of the detection that found it; NaN if it was missed.
        confusions: int64 (C, 3), sorted: an object's class, the other class of the detection that
            covers it best, and how often. Only detections with a score of at least 0.3, of
            classes that were verified in the image and are exhaustively annotated there.
    """

    image_ids: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    annotation_ids: np.ndarray
    ignored: np.ndarray
    gt_image_ids: np.ndarray
    gt_classes: np.ndarray
    gt_annotation_ids: np.ndarray
    gt_scores: np.ndarray
    confusions: np.ndarray

    def save(self, path: str) -> None:
        """Write a compressed .npz file."""
        with atomic_file(path, "wb") as f:
            np.savez_compressed(f, **{name: getattr(self, name) for name in _COLUMNS})

    @classmethod
    def load(cls, path: str) -> "Matches":
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as columns:
            return cls(**{name: columns[name] for name in _COLUMNS})


_COLUMNS = tuple(field.name for field in dataclasses.fields(Matches))
_DTYPES = {
    "image_ids": np.int64,
    "classes": np.int32,
    "scores": np.float64,
    "annotation_ids": np.int64,
    "ignored": np.bool_,
    "gt_image_ids": np.int64,
    "gt_classes": np.int32,
    "gt_annotation_ids": np.int64,
    "gt_scores": np.float64,
}


class Matcher:
    """Matches the detections and objects of some images at a time."""

    def __init__(self, categories: Sequence[dict[str, Any]], iou_type: str, max_detections: int):
        """Arguments as for ``HotcocoEngine``."""
        self._categories = list(categories)
        self._iou_type = iou_type
        self._max_detections = max_detections
        self._classes = {category["id"]: k for k, category in enumerate(categories)}
        self._columns: dict[str, list[np.ndarray]] = {
            name: [np.empty(0, dtype)] for name, dtype in _DTYPES.items()
        }
        self._confusions = [np.empty((0, 3), np.int64)]

    def add(
        self,
        images: Sequence[dict[str, Any]],
        annotations: Sequence[Sequence[dict[str, Any]]],
        detections: Sequence[Detections],
    ) -> None:
        """Match the detections and objects of some images, as ``HotcocoEngine.add``."""
        counted = counted_detections(
            images, annotations, detections, self._iou_type, self._max_detections
        )
        evaluation = self._evaluation(images, annotations, counted)
        evaluation.evaluate()
        rows: dict[str, list] = {name: [] for name in _DTYPES}
        # Annotations with "ignore": 1, which hotcoco takes for objects.
        no_objects = {a["id"] for objects in annotations for a in objects if a.get("ignore")}
        for cell in evaluation.eval_imgs:
            if cell is not None:
                self._append(cell, rows, no_objects)
        for name, dtype in _DTYPES.items():
            self._columns[name].append(np.array(rows[name], dtype=dtype))
        self._confusions.append(self._confused(images, annotations, counted))

    def state(self) -> bytes:
        """What was added, for :meth:`merge` in another process."""
        return pickle.dumps((self._columns, self._confusions))

    def merge(self, states: Iterable[bytes]) -> None:
        """Add the images of other matchers with the same arguments."""
        for state in states:
            columns, confusions = pickle.loads(state)
            for name, parts in columns.items():
                self._columns[name] += parts
            self._confusions += confusions

    def finish(self) -> Matches:
        """Everything that was added, in an order that does not depend on that of the images."""
        columns = {name: np.concatenate(parts) for name, parts in self._columns.items()}
        for prefix in ("", "gt_"):
            # By image and class, then as they are: by descending score.
            order = np.lexsort((columns[f"{prefix}classes"], columns[f"{prefix}image_ids"]))
            for name in columns:
                if name.startswith("gt_") == bool(prefix):
                    columns[name] = columns[name][order]
        confusions = np.concatenate(self._confusions)
        pairs, index = np.unique(confusions[:, :2], axis=0, return_inverse=True)
        counts = np.zeros(len(pairs), np.int64)
        np.add.at(counts, index.reshape(-1), confusions[:, 2])
        return Matches(**columns, confusions=np.column_stack([pairs, counts]))

    def _evaluation(self, images, annotations, detections):
        objects = as_hotcoco_objects(annotations, self._iou_type)
        rows, masks = as_hotcoco_detections(detections, self._iou_type)
        ground_truth = hotcoco.COCO(
            {"images": images, "annotations": objects, "categories": self._categories}
        )
        # With None it cuts off nothing, and is not cut off later.
        results = ground_truth.load_res(rows, segmentation=masks).cap_detections_per_image(None)
        evaluation = hotcoco.COCOeval(ground_truth, results, self._iou_type, lvis_style=True)
        evaluation.params.max_dets = [self._max_detections]
        evaluation.params.iou_thrs = [IOU_THRESHOLD]
        evaluation.params.area_rng = [[0, 1e10]]
        evaluation.params.area_rng_lbl = ["all"]
        return evaluation

    def _append(self, cell, rows, no_objects):
        """One image and class of hotcoco's evaluation; [0] is the only IoU threshold."""
        k = self._classes[cell["category_id"]]
        for score, found, ignored in zip(
            cell["dtScores"], cell["dtMatches"][0], cell["dtIgnore"][0], strict=True
        ):
            is_no_object = found in no_objects
            rows["image_ids"].append(cell["image_id"])
            rows["classes"].append(k)
            rows["scores"].append(score)
            rows["annotation_ids"].append(0 if is_no_object else found)
            rows["ignored"].append(ignored or is_no_object)
        scores = dict(zip(cell["dtMatches"][0], cell["dtScores"], strict=True))
        for gt_id in cell["gtIds"]:
            if gt_id not in no_objects:
                rows["gt_image_ids"].append(cell["image_id"])
                rows["gt_classes"].append(k)
                rows["gt_annotation_ids"].append(gt_id)
                rows["gt_scores"].append(scores.get(gt_id, np.nan))

    def _confused(self, images, annotations, detections):
        chosen = []
        for image, of_image in zip(images, detections, strict=True):
            unsure = image["not_exhaustive_category_ids"]
            is_sure = of_image.scores >= CONFUSION_SCORE
            is_sure &= ~np.isin(of_image.category_ids, unsure)
            chosen.append(of_image.select(np.flatnonzero(is_sure)))
        evaluation = self._evaluation(images, annotations, chosen)
        matrix = evaluation.confusion_matrix(iou_thr=IOU_THRESHOLD)["matrix"][:-1, :-1]
        gt_classes, classes = np.nonzero(matrix != 0)  # of bools much faster
        counts = matrix[gt_classes, classes].astype(np.int64)
        return np.column_stack([gt_classes, classes, counts])[gt_classes != classes]
