"""Which detections were right, one by one: what calibration and the report are made of."""

import dataclasses
import pickle
from collections.abc import Iterable

import hotcoco
import numpy as np

from ..atomic_write import atomic_file
from .batch import Batch

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
    """
    Matches the detections and objects of some images at a time.

    hotcoco's own ``StreamingEval``, which computes AP, does not tell what it has matched.
    """

    def __init__(self, ground_truth: dict, iou_type: str, max_detections: int):
        """Arguments as for ``HotcocoEngine``, but any ``max_detections``."""
        self._categories = ground_truth["categories"]
        self._classes = {category["id"]: k for k, category in enumerate(self._categories)}
        self._iou_type = iou_type
        self._max_detections = max_detections
        self._parts: list[Matches] = []

    def add(self, batch: Batch) -> None:
        objects = hotcoco.COCO(
            {
                "images": batch.images,
                "annotations": batch.hotcoco_objects,
                "categories": self._categories,
            }
        )
        evaluation = self._evaluation(objects, batch.rows, batch.masks)
        evaluation.evaluate()
        columns = self._matched(evaluation)
        # hotcoco takes annotations with "ignore": 1 for objects.
        not_objects = [a["id"] for of_image in batch.objects for a in of_image if a.get("ignore")]
        if not_objects:
            found = np.isin(columns["annotation_ids"], not_objects)
            columns["annotation_ids"][found] = 0
            columns["ignored"] |= found
            is_object = ~np.isin(columns["gt_annotation_ids"], not_objects)
            for name in columns:
                if name.startswith("gt_"):
                    columns[name] = columns[name][is_object]
        self._parts.append(Matches(**columns, confusions=self._confusions(objects, batch)))

    def state(self) -> bytes:
        return pickle.dumps(self._parts)

    def merge(self, states: Iterable[bytes]) -> None:
        for state in states:
            self._parts += pickle.loads(state)

    def finish(self) -> Matches:
        """Everything that was added, in an order that does not depend on that of the images."""
        columns = {
            name: np.concatenate([getattr(part, name) for part in self._parts]) for name in _COLUMNS
        }
        confusions = columns.pop("confusions")
        for prefix in ("", "gt_"):
            # By image and class, then as they are: by descending score.
            order = np.lexsort((columns[f"{prefix}classes"], columns[f"{prefix}image_ids"]))
            for name in columns:
                if name.startswith("gt_") == bool(prefix):
                    columns[name] = columns[name][order]
        pairs, index = np.unique(confusions[:, :2], axis=0, return_inverse=True)
        counts = np.zeros(len(pairs), np.int64)
        np.add.at(counts, index.reshape(-1), confusions[:, 2])
        return Matches(**columns, confusions=np.column_stack([pairs, counts]))

    def _evaluation(self, objects, rows, masks):
        # With None it cuts off nothing, and is not cut off later.
        detections = objects.load_res(rows, segmentation=masks).cap_detections_per_image(None)
        evaluation = hotcoco.COCOeval(objects, detections, self._iou_type, lvis_style=True)
        evaluation.params.max_dets = [self._max_detections]
        evaluation.params.iou_thrs = [IOU_THRESHOLD]
        evaluation.params.area_rng = [[0, 1e10]]
        evaluation.params.area_rng_lbl = ["all"]
        return evaluation

    def _matched(self, evaluation):
        """Columns of hotcoco's cells, one for each image and class."""
        columns: dict[str, list] = {name: [] for name in _DTYPES}
        for cell in evaluation.eval_imgs:
            if cell is None:
                continue
            # [0] is the only IoU threshold.
            scores, found, objects = cell["dtScores"], cell["dtMatches"][0], cell["gtIds"]
            columns["image_ids"] += [cell["image_id"]] * len(scores)
            columns["classes"] += [self._classes[cell["category_id"]]] * len(scores)
            columns["scores"] += scores
            columns["annotation_ids"] += found
            columns["ignored"] += cell["dtIgnore"][0]
            columns["gt_image_ids"] += [cell["image_id"]] * len(objects)
            columns["gt_classes"] += [self._classes[cell["category_id"]]] * len(objects)
            columns["gt_annotation_ids"] += objects
            score_of = dict(zip(found, scores, strict=True))
            columns["gt_scores"] += [score_of.get(i, np.nan) for i in objects]
        return {name: np.array(columns[name], dtype) for name, dtype in _DTYPES.items()}

    def _confusions(self, objects, batch):
        is_sure = np.concatenate(
            [
                (of_image.scores >= CONFUSION_SCORE)
                & ~np.isin(of_image.category_ids, image["not_exhaustive_category_ids"])
                for image, of_image in zip(batch.images, batch.counted, strict=True)
            ]
        )
        masks = batch.masks and [batch.masks[i] for i in np.flatnonzero(is_sure)]
        evaluation = self._evaluation(objects, batch.rows[is_sure], masks)
        matrix = evaluation.confusion_matrix(iou_thr=IOU_THRESHOLD)["matrix"][:-1, :-1]
        gt_classes, classes = np.nonzero(matrix != 0)  # of bools much faster
        counts = matrix[gt_classes, classes].astype(np.int64)
        return np.column_stack([gt_classes, classes, counts])[gt_classes != classes]
