"""For every class, the images where the model does best and worst."""

import dataclasses
from collections import defaultdict
from typing import Any

import numpy as np
from tqdm import tqdm

from ..matches import Matches
from ..result import Result
from .overlays import Overlays

EXAMPLES = 4
# So that a report of LVIS's 1,203 classes is no larger than a few dozen megabytes.
MANY_CLASSES = 300
EXAMPLES_OF_MANY = 2
CONFUSIONS_PER_CLASS = 5


@dataclasses.dataclass(frozen=True)
class Tally:
    """
    Objects and detections of one class in one image, as columns: (N,) each, sorted by class, then
    image. Only pairs of class and image with an object, or a detection that is not ignored.
    """

    image_ids: np.ndarray
    classes: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    missed: np.ndarray


def tally_images(matches: Matches, score_threshold: float) -> Tally:
    """Count right and wrong detections with at least the score, and objects without one."""
    taken = ~matches.ignored & (matches.scores >= score_threshold)
    is_right = matches.annotation_ids[taken] > 0
    is_missed = ~(matches.gt_scores >= score_threshold)
    detections = np.stack([matches.classes[taken], matches.image_ids[taken]], axis=1)
    objects = np.stack([matches.gt_classes, matches.gt_image_ids], axis=1)
    pairs, index = np.unique(np.concatenate([detections, objects]), axis=0, return_inverse=True)
    index = index.reshape(-1)
    of_detections, of_objects = index[: len(detections)], index[len(detections) :]
    return Tally(
        image_ids=pairs[:, 1],
        classes=pairs[:, 0],
        right=np.bincount(of_detections[is_right], minlength=len(pairs)),
        wrong=np.bincount(of_detections[~is_right], minlength=len(pairs)),
        missed=np.bincount(of_objects[is_missed], minlength=len(pairs)),
    )


def choose_examples(
    tally: Tally, num_classes: int, num_examples: int
) -> list[dict[str, list[int]]]:
    """
    Best: images with a right detection, of highest F1. Worst: others with a mistake, with most
    missed objects and wrong detections. Among equals, images that are shown already for other
    classes come first, so that fewer pictures are needed.

    Returns:
        For each class {"best": positions in ``tally``, "worst": positions}, up to
        ``num_examples`` each.
    """
    mistakes = tally.wrong + tally.missed
    f1 = 2 * tally.right / np.maximum(2 * tally.right + mistakes, 1)
    _, image_index = np.unique(tally.image_ids, return_inverse=True)
    is_shown = np.zeros(len(tally.image_ids), bool)
    bounds = np.searchsorted(tally.classes, np.arange(num_classes + 1))
    examples: list[dict[str, list[int]]] = [{} for _ in range(num_classes)]
    # Classes with few images have no choice, so they come first.
    for k in np.argsort(np.diff(bounds), kind="stable"):
        rows = np.arange(bounds[k], bounds[k + 1])
        is_new = ~is_shown[image_index[rows]]
        order = rows[np.lexsort((-tally.right[rows], is_new, -f1[rows]))]
        best = order[tally.right[order] > 0][:num_examples]
        others = np.setdiff1d(rows[mistakes[rows] > 0], best)
        is_new = ~is_shown[image_index[others]]
        worst = others[np.lexsort((is_new, tally.right[others], -mistakes[others]))][:num_examples]
        is_shown[image_index[np.concatenate([best, worst])]] = True
        examples[k] = {"best": best.tolist(), "worst": worst.tolist()}
    return examples


def draw_examples(
    result: Result, iou_type: str, score_threshold: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """
    Returns:
        The pictures that are shown, each with what :meth:`Overlays.picture` gives; and for each
        class "best" and "worst", images with "picture" (index of the picture), "right", "wrong",
        "missed", "objects" and "detections" (of :class:`Overlays`), and "confused", other classes
        that its objects were detected as and how often.

    Raises:
        FileNotFoundError, ValueError: the annotation file or the detections are not there, broken,
            or not those that were evaluated.
    """
    num_classes = len(result.categories)
    tally = tally_images(result.matches[iou_type], score_threshold)
    num_examples = EXAMPLES if num_classes <= MANY_CLASSES else EXAMPLES_OF_MANY
    chosen = choose_examples(tally, num_classes, num_examples)
    overlays = Overlays(result, iou_type, score_threshold)
    rows_of_images = defaultdict(list)
    for of_class in chosen:
        for row in of_class["best"] + of_class["worst"]:
            rows_of_images[int(tally.image_ids[row])].append(row)
    pictures: list[dict[str, Any]] = []
    drawn = {}
    for image_id in tqdm(sorted(rows_of_images), "pictures", unit="image", disable=None):
        detections = overlays.detections(image_id)
        for row in rows_of_images[image_id]:
            k = int(tally.classes[row])
            drawn[row] = {
                "picture": len(pictures),
                **{name: int(getattr(tally, name)[row]) for name in ("right", "wrong", "missed")},
                "objects": overlays.objects_of_class(image_id, k, detections),
                "detections": overlays.detections_of_class(image_id, k, detections),
            }
        pictures.append(overlays.picture(image_id))
    examples = [
        {**{kind: [drawn[row] for row in rows] for kind, rows in of_class.items()}, "confused": []}
        for of_class in chosen
    ]
    confusions = result.matches[iou_type].confusions
    for gt_class, other, count in confusions[np.argsort(-confusions[:, 2], kind="stable")].tolist():
        if len(examples[gt_class]["confused"]) < CONFUSIONS_PER_CLASS:
            examples[gt_class]["confused"].append((other, count))
    return pictures, examples
