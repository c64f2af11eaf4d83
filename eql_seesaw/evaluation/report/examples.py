"""For every class, the images where the model does best and worst."""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from ..ground_truth import load_ground_truth
from ..matches import Matches
from ..results_file import ResultsFile
from .confusions import pairs_of_classes
from .overlays import Overlays
from .run import Run
from .thumbnails import thumbnail

EXAMPLES = 4
# So that a report of LVIS's 1,203 classes is no larger than a few dozen megabytes.
MANY_CLASSES = 300
EXAMPLES_OF_MANY = 2


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


def examples_per_class(num_classes: int) -> int:
    """How many of the best, and of the worst, images are shown."""
    return EXAMPLES if num_classes <= MANY_CLASSES else EXAMPLES_OF_MANY


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
    image_ids, image_index = np.unique(tally.image_ids, return_inverse=True)
    is_shown = np.zeros(len(image_ids), bool)
    bounds = np.searchsorted(tally.classes, np.arange(num_classes + 1))
    examples: list[dict[str, list[int]]] = [{} for _ in range(num_classes)]
    # Classes with few images have no choice, so they come first.
    for k in np.argsort(np.diff(bounds), kind="stable"):
        rows = np.arange(bounds[k], bounds[k + 1])
        best = _first(
            rows[tally.right[rows] > 0],
            num_examples,
            lambda r: (-f1[r], ~is_shown[image_index[r]], -tally.right[r]),
        )
        is_shown[image_index[best]] = True
        others = np.setdiff1d(rows[mistakes[rows] > 0], best)
        worst = _first(
            others,
            num_examples,
            lambda r: (-mistakes[r], tally.right[r], ~is_shown[image_index[r]]),
        )
        is_shown[image_index[worst]] = True
        examples[k] = {"best": best.tolist(), "worst": worst.tolist()}
    return examples


def draw_examples(
    run: Run, score_threshold: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """
    Returns:
        The pictures that are shown, each with "url" (None without its file), "file_name", "width"
        and "height" in units of the overlays; and for each class "best" and "worst", images with
        "picture" (which of the pictures), "right", "wrong", "missed" and what ``Overlays`` draws,
        and "confused", other classes that its objects were detected as and how often.

    Raises:
        FileNotFoundError, ValueError: the annotation file or the detections are not there, broken,
            or not those that were evaluated.
    """
    matches = run.matches[run.tasks[0]]
    num_classes = len(run.categories)
    tally = tally_images(matches, score_threshold)
    chosen = choose_examples(tally, num_classes, examples_per_class(num_classes))
    classes_of_images = defaultdict(list)
    for k, of_class in enumerate(chosen):
        for row in of_class["best"] + of_class["worst"]:
            classes_of_images[int(tally.image_ids[row])].append(k)
    pictures, drawn = _draw(run, classes_of_images, score_threshold)
    index = {image_id: i for i, image_id in enumerate(pictures)}

    def example(k, row):
        image_id = int(tally.image_ids[row])
        picture = pictures[image_id]
        return {
            "picture": index[image_id],
            **{key: picture[key] for key in ("file_name", "width", "height")},
            **{name: int(getattr(tally, name)[row]) for name in ("right", "wrong", "missed")},
            **drawn[image_id, k],
        }

    confused = pairs_of_classes(matches.confusions)
    examples = [
        {
            "best": [example(k, row) for row in of_class["best"]],
            "worst": [example(k, row) for row in of_class["worst"]],
            "confused": confused.get(k, []),
        }
        for k, of_class in enumerate(chosen)
    ]
    return list(pictures.values()), examples


def _draw(
    run: Run, classes_of_images: Mapping[int, Sequence[int]], score_threshold: float
) -> tuple[dict[int, dict[str, Any]], dict[tuple[int, int], dict[str, Any]]]:
    """{image id: picture}, {(image id, class): what is drawn on it}"""
    ground_truth = load_ground_truth(run.evaluation.annotation_file, run.groups)
    results = ResultsFile(run.results_file)
    overlays = Overlays(run, run.tasks[0], ground_truth, results, score_threshold)
    pictures, drawn = {}, {}
    for image_id in tqdm(sorted(classes_of_images), "pictures", unit="image", disable=None):
        path = run.evaluation.file_names.get(str(image_id)) or ""
        width, height = overlays.size(image_id)
        pictures[image_id] = {
            "url": thumbnail(path),
            "file_name": os.path.basename(path) or f"image {image_id}",
            "width": width,
            "height": height,
        }
        for k, of_class in overlays.of_image(image_id, classes_of_images[image_id]).items():
            drawn[image_id, k] = of_class
    return pictures, drawn


def _first(
    rows: np.ndarray, count: int, keys: Callable[[np.ndarray], Sequence[np.ndarray]]
) -> np.ndarray:
    """The first ``count`` rows, sorted by the first of their keys, then the second, ..."""
    return rows[np.lexsort((rows, *reversed(keys(rows))))[:count]]
