"""The classes most often mixed up."""

from collections.abc import Iterable

import numpy as np

from ..matches import CONFUSION_SCORE, Matches

NUM_PAIRS = 20
MATRIX_CLASSES = 20
PAIRS_PER_CLASS = 5


def top_pairs(confusions: np.ndarray, num_pairs: int = NUM_PAIRS) -> list[list[int]]:
    """[class of the object, class of the detection, how often], most frequent first."""
    order = np.argsort(-confusions[:, 2], kind="stable")[:num_pairs]
    return confusions[order].tolist()


def most_confused_classes(confusions: np.ndarray, num_classes: int = MATRIX_CLASSES) -> list[int]:
    """Classes of the most frequent pairs, those that are mixed up with each other side by side."""
    chosen: list[int] = []
    for gt_class, other, _ in top_pairs(confusions, len(confusions)):
        missing = [k for k in (gt_class, other) if k not in chosen]
        if len(chosen) + len(missing) > num_classes:
            break
        chosen += missing
    counts = _square(confusions, chosen)
    both_ways = counts + counts.T
    # Each class is followed by the one, of those left, that it is mixed up with most.
    ordered: list[int] = []
    left = list(range(len(chosen)))
    while left:
        following = max(left, key=lambda i: both_ways[ordered[-1], i]) if ordered else left[0]
        ordered.append(following)
        left.remove(following)
    return [chosen[i] for i in ordered]


def confusion_matrix(matches: Matches, classes: Iterable[int]) -> np.ndarray:
    """
    (n, n) counts among ``classes``: objects of the row's class that a detection of the column's
    class covers best; on the diagonal, objects that a detection of their own class found. Scores
    are at least 0.3.
    """
    classes = list(classes)
    matrix = _square(matches.confusions, classes)
    found = matches.gt_classes[matches.gt_scores >= CONFUSION_SCORE]
    counts = np.bincount(found, minlength=max(classes, default=0) + 1)
    matrix[np.diag_indices(len(classes))] = counts[classes]
    return matrix


def pairs_of_classes(confusions: np.ndarray) -> dict[int, list[list[int]]]:
    """{class of objects: [[class of detections, how often], ...]}, a few, most frequent first."""
    pairs: dict[int, list[list[int]]] = {}
    for gt_class, other, count in top_pairs(confusions, len(confusions)):
        of_class = pairs.setdefault(gt_class, [])
        if len(of_class) < PAIRS_PER_CLASS:
            of_class.append([other, count])
    return pairs


def _square(confusions, classes):
    index = {k: i for i, k in enumerate(classes)}
    square = np.zeros((len(classes), len(classes)), np.int64)
    for gt_class, other, count in confusions.tolist():
        if gt_class in index and other in index:
            square[index[gt_class], index[other]] = count
    return square
