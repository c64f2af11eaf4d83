"""LVIS evaluation that takes images one after another, in any number of processes."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from ..config import LVIS_ENGINES
from .detections import REGIONS, Detections
from .lvis_result import LVISResult
from .matching import Matching
from .official_engine import evaluate_officially


class LVISEvaluation:
    """
    Matchings of a data set's images, one for each IoU type.

    Each process adds its own images; the states of all are merged in one, where images that none
    has added count as images without detections.

    Attributes:
        matchings: by IoU type.
    """

    def __init__(self, ground_truth: dict, iou_types: Sequence[str], max_detections: int = 300):
        """
        Args:
            ground_truth: a complete LVIS annotation dict, as ``load_ground_truth`` returns it.
            iou_types: of "bbox", "segm" and "boundary".
            max_detections: that count per image, over all classes; -1 for all.

        Raises:
            ValueError: objects of the ground truth lack the regions that ``iou_types`` ask for.
        """
        self._needed = tuple({"bbox" if t == "bbox" else "segm": None for t in iou_types})
        for iou_type in self._needed:
            _check_regions(ground_truth, REGIONS[iou_type])
        categories = ground_truth["categories"]
        self.matchings = {t: Matching(categories, t, max_detections) for t in iou_types}
        self._images = {image["id"]: image for image in ground_truth["images"]}
        self._category_ids = {category["id"] for category in categories}
        self._annotations = defaultdict(list)
        for annotation in ground_truth["annotations"]:
            self._annotations[annotation["image_id"]].append(annotation)
        self._added: set[int] = set()

    def add(self, detections: Detections) -> None:
        """
        Args:
            detections: all detections of an image. An image that comes a second time is left out.

        Raises:
            ValueError: the ground truth does not have the image; or as ``Detections.check``, and
                for masks that do not fit, ``Detections.counted``.
        """
        image_id = detections.image_id
        if image_id not in self._images:
            raise ValueError(
                f"Detection in image {image_id!r}: the ground truth has no image with this id."
            )
        detections.check(self._category_ids)
        if image_id not in self._added:
            self._match(detections)

    def state(self) -> tuple[set[int], dict[str, bytes]]:
        """All that was added, for :meth:`merge` in another process."""
        return self._added, {name: part.state() for name, part in self.matchings.items()}

    def merge(self, states: Iterable[tuple[set[int], dict[str, bytes]]]) -> None:
        """
        Add what other processes have added.

        Raises:
            ValueError: two of them have added the same image.
        """
        states = list(states)
        for added, _ in states:
            twice = self._added & added
            if twice:
                raise ValueError(
                    f"Image {min(twice)!r} was evaluated by two processes; each image must come in "
                    "one only. Is the sampler of the test loader one that repeats images?"
                )
            self._added |= added
        for name, part in self.matchings.items():
            part.merge(parts[name] for _, parts in states)

    def add_remaining(self) -> None:
        """Let the images that were not added count as images without detections."""
        for image_id in self._images.keys() - self._added:
            self._match(Detections.from_results(image_id, [], self._needed))

    def _match(self, detections):
        image_id = detections.image_id
        for matching in self.matchings.values():
            matching.add(self._images[image_id], self._annotations[image_id], detections)
        self._added.add(image_id)


def _check_regions(ground_truth, region):
    for annotation in ground_truth["annotations"]:
        if region not in annotation:
            raise ValueError(
                f"Ground truth annotation {annotation['id']} of image {annotation['image_id']!r} "
                f"has no {region!r}, so {region} AP cannot be computed."
            )


def evaluate_lvis(
    ground_truth: dict,
    results: Iterable[dict[str, Any]],
    iou_type: str,
    max_detections: int = 300,
    engine: str = "hotcoco",
) -> LVISResult:
    """
    Evaluate detections by the LVIS rules (https://www.lvisdataset.org, arXiv 1908.03195).

    The numbers are those of the official code: the ``max_detections`` highest scores of an image
    count, over all its classes; then detections without area are dropped; then those of classes
    that are neither annotated in the image nor among its negatives. Without any detection, which
    the official code cannot take, every metric that has ground truth is 0.

    Args:
        ground_truth: a complete LVIS annotation dict, as ``load_ground_truth`` returns it, its
            annotation ids from 1.
        results: detections in LVIS's results format, in any order. Areas are those of the masks for
            "segm", whether the detections have boxes or not.
        iou_type: "bbox" or "segm".
        max_detections: that count per image, or -1 for all.
        engine: "hotcoco", or "lvis" for the official package.

    Neither ``ground_truth`` nor ``results`` is changed.

    Raises:
        ValueError: a detection has an unknown image or category id, a score or box that is not
            finite, or a mask that does not fit its image; or the ground truth has no masks.
    """
    if iou_type not in REGIONS:
        raise ValueError(f"iou_type is {iou_type!r}; expected 'bbox' or 'segm'.")
    if engine not in LVIS_ENGINES:
        raise ValueError(
            f"TEST.LVIS_ENGINE is {engine!r}; it must be one of {', '.join(LVIS_ENGINES)}"
        )
    if max_detections < -1 or max_detections == 0:
        raise ValueError(f"max_detections is {max_detections}; expected at least 1, or -1.")
    evaluation = LVISEvaluation(ground_truth, [iou_type], max_detections)
    by_image: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        by_image[result.get("image_id")].append(result)
    for image_id, of_image in by_image.items():
        evaluation.add(Detections.from_results(image_id, of_image, [iou_type]))
    if engine == "lvis":
        results = [result for of_image in by_image.values() for result in of_image]
        return evaluate_officially(ground_truth, results, iou_type, max_detections)
    evaluation.add_remaining()
    return evaluation.matchings[iou_type].result()
