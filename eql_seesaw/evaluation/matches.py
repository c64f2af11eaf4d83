"""Outcome of the matching at an IoU of 0.5, detection by detection."""

import dataclasses

import numpy as np

from ..atomic_write import atomic_file

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
