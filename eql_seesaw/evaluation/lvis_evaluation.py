"""LVIS evaluation that takes images one after another, in any number of processes."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from .batch import Accumulator, make_batch
from .detections import REGIONS, Detections
from .hotcoco_engine import HotcocoEngine
from .lvis_result import LVISResult
from .official_engine import OfficialEngine

logger = logging.getLogger(__name__)

ENGINES: dict[str, type[HotcocoEngine] | type[OfficialEngine]] = {
    "hotcoco": HotcocoEngine,
    "lvis": OfficialEngine,
}
# Images that are handed over at a time.
NUM_IMAGES = 32


class LVISEvaluation:
    """
    Feeds detections and ground truth, image by image, to whatever computes something of them.

    Each process adds its own images; the states of all are merged in one, where images that none
    has added count as images without detections.
    """

    def __init__(
        self,
        ground_truth: dict,
        max_detections: int,
        accumulators: Mapping[str, Mapping[str, Accumulator]],
    ):
        """
        Args:
            ground_truth: a complete LVIS annotation dict, as ``load_ground_truth`` returns it.
            max_detections: that count per image, over all its classes; -1 for all.
            accumulators: by name for each IoU type that they need, "bbox" and "segm". In all
                processes the same.

        Raises:
            ValueError: objects of the ground truth lack the regions of an IoU type.
        """
        for iou_type in accumulators:
            _check_regions(ground_truth, REGIONS[iou_type])
        self._max_detections = max_detections
        self._accumulators = accumulators
        self._images = {image["id"]: image for image in ground_truth["images"]}
        self._category_ids = {category["id"] for category in ground_truth["categories"]}
        self._annotations = defaultdict(list)
        for annotation in ground_truth["annotations"]:
            self._annotations[annotation["image_id"]].append(annotation)
        self._added: set[int] = set()
        self._waiting: dict[int, Detections] = {}

    def add(self, detections: Detections) -> None:
        """
        Args:
            detections: all detections of an image. An image that comes a second time is left out.

        Raises:
            ValueError: the ground truth does not have the image; or as ``Detections.check``, and
                for masks that do not fit, here or in a later call, ``Detections.counted``.
        """
        image_id = detections.image_id
        if image_id not in self._images:
            raise ValueError(
                f"Detection in image {image_id!r}: the ground truth has no image with this id."
            )
        detections.check(self._category_ids)
        if image_id not in self._added:
            self._added.add(image_id)
            self._waiting[image_id] = detections
        if len(self._waiting) >= NUM_IMAGES:
            self.flush()

    def flush(self) -> None:
        """
        Hand over what waits for more images.

        Raises:
            ValueError: as :meth:`add`.
        """
        waiting = list(self._waiting.values())
        for i in range(0, len(waiting), NUM_IMAGES):
            detections = waiting[i : i + NUM_IMAGES]
            images = [self._images[of_image.image_id] for of_image in detections]
            annotations = [self._annotations[of_image.image_id] for of_image in detections]
            for iou_type, parts in self._accumulators.items():
                batch = make_batch(images, annotations, detections, iou_type, self._max_detections)
                for part in parts.values():
                    part.add(batch)
        self._waiting.clear()

    def state(self) -> tuple[set[int], list[bytes]]:
        """Ids of the images that were added, and their outcomes, for :meth:`merge`."""
        self.flush()
        return self._added, [part.state() for part in self._all_accumulators()]

    def merge(self, states: Iterable[tuple[set[int], list[bytes]]]) -> None:
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
        for i, part in enumerate(self._all_accumulators()):
            part.merge(of_parts[i] for _, of_parts in states)

    def finish(self) -> dict[str, dict[str, Any]]:
        """Outcome of each accumulator for all images. Nothing can be added after this."""
        for image_id in self._images.keys() - self._added:
            self._waiting[image_id] = Detections.from_results(image_id, [], self._accumulators)
        self.flush()
        return {
            iou_type: {name: part.finish() for name, part in parts.items()}
            for iou_type, parts in self._accumulators.items()
        }

    def _all_accumulators(self):
        return [part for parts in self._accumulators.values() for part in parts.values()]


def _check_regions(ground_truth, region):
    for annotation in ground_truth["annotations"]:
        if region not in annotation:
            raise ValueError(
                f"Ground truth annotation {annotation['id']} of image {annotation['image_id']!r} "
                f"has no {region!r}, so {region} AP cannot be computed."
            )


def choose_engine(name: str, ground_truth: dict) -> str:
    """
    The engine that is asked for; or else "lvis", with a warning, for objects with ``ignore: 1``, to
    be neither found nor missed, which LVIS files do not have and hotcoco does not know.
    """
    if name != "lvis" and any(a.get("ignore") for a in ground_truth["annotations"]):
        logger.warning(
            'Some objects of the ground truth have "ignore": 1, which only the official lvis '
            "package evaluates; it takes much more time and memory."
        )
        return "lvis"
    return name


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
        max_detections: that count per image; more than 300, or -1 for all, takes the engine "lvis".
        engine: "hotcoco" or "lvis".

    Neither ``ground_truth`` nor ``results`` is changed.

    Raises:
        ValueError: a detection has an unknown image or category id, a score or box that is not
            finite, or a mask that does not fit its image; or the ground truth has no masks.
    """
    if iou_type not in REGIONS:
        raise ValueError(f"iou_type is {iou_type!r}; expected 'bbox' or 'segm'.")
    if max_detections < -1 or max_detections == 0:
        raise ValueError(f"max_detections is {max_detections}; expected at least 1, or -1.")
    engine = choose_engine(engine, ground_truth)
    accumulator = ENGINES[engine](ground_truth, iou_type, max_detections)
    evaluation = LVISEvaluation(ground_truth, max_detections, {iou_type: {"result": accumulator}})
    by_image: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        by_image[result.get("image_id")].append(result)
    for image_id, of_image in by_image.items():
        evaluation.add(Detections.from_results(image_id, of_image, [iou_type]))
    return evaluation.finish()[iou_type]["result"]
