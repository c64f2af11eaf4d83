"""LVIS evaluation that takes images one after another, in any number of processes."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

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


class Accumulator(Protocol):
    """What :class:`LVISEvaluation` feeds: an engine, a ``Matcher``, ``BoundaryAP``."""

    def add(
        self,
        images: Sequence[dict[str, Any]],
        annotations: Sequence[Sequence[dict[str, Any]]],
        detections: Sequence[Detections],
    ) -> None: ...

    def state(self) -> bytes: ...

    def merge(self, states: Iterable[bytes]) -> None: ...

    def finish(self) -> Any: ...


class LVISEvaluation:
    """
    Feeds detections and ground truth, image by image, to whatever computes something of them.

    Each process adds its own images; the states of all are merged in one, where images that none
    has added count as images without detections.
    """

    def __init__(
        self,
        ground_truth: dict,
        iou_types: Sequence[str],
        accumulators: Mapping[str, Accumulator],
    ):
        """
        Args:
            ground_truth: a complete LVIS annotation dict, as ``load_ground_truth`` returns it.
            iou_types: what the accumulators need of the detections, "bbox" and "segm".
            accumulators: by name. In all processes the same.

        Raises:
            ValueError: objects of the ground truth lack the regions that ``iou_types`` ask for.
        """
        for iou_type in iou_types:
            _check_regions(ground_truth, REGIONS[iou_type])
        self._iou_types = iou_types
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
            for part in self._accumulators.values():
                part.add(images, annotations, detections)
        self._waiting.clear()

    def state(self) -> tuple[set[int], dict[str, bytes]]:
        """What was added, for :meth:`merge` in another process."""
        self.flush()
        states = {name: part.state() for name, part in self._accumulators.items()}
        return self._added, states

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
        for name, part in self._accumulators.items():
            part.merge(parts[name] for _, parts in states)

    def finish(self) -> dict[str, Any]:
        """What each accumulator makes of all images. Nothing can be added after this."""
        for image_id in self._images.keys() - self._added:
            self._waiting[image_id] = Detections.from_results(image_id, [], self._iou_types)
        self.flush()
        return {name: part.finish() for name, part in self._accumulators.items()}


def _check_regions(ground_truth, region):
    for annotation in ground_truth["annotations"]:
        if region not in annotation:
            raise ValueError(
                f"Ground truth annotation {annotation['id']} of image {annotation['image_id']!r} "
                f"has no {region!r}, so {region} AP cannot be computed."
            )


def build_engine(name: str, ground_truth: dict, iou_type: str, max_detections: int) -> Accumulator:
    """
    Args:
        name: "hotcoco", or "lvis" for the official package. Both give the same numbers.
        ground_truth, iou_type, max_detections: as for :func:`evaluate_lvis`.

    Returns:
        The engine, whose ``finish`` gives an ``LVISResult`` and whose ``package`` says what
        computes it; the official one, with a warning, for objects with ``ignore: 1``, which LVIS
        files do not have and hotcoco does not know.
    """
    if name not in ENGINES:
        raise ValueError(f"TEST.LVIS_ENGINE is {name!r}; it must be one of {', '.join(ENGINES)}")
    if name != "lvis" and has_ignored_objects(ground_truth):
        logger.warning(
            'Some objects of the ground truth have "ignore": 1, which only the official lvis '
            "package evaluates; it takes much more time and memory."
        )
        name = "lvis"
    return ENGINES[name](ground_truth["categories"], iou_type, max_detections)


def has_ignored_objects(ground_truth: dict) -> bool:
    """Whether some objects are to be neither found nor missed, which hotcoco does not know."""
    return any(annotation.get("ignore") for annotation in ground_truth["annotations"])


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
    accumulator = build_engine(engine, ground_truth, iou_type, max_detections)
    evaluation = LVISEvaluation(ground_truth, [iou_type], {"result": accumulator})
    by_image: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        by_image[result.get("image_id")].append(result)
    for image_id, of_image in by_image.items():
        evaluation.add(Detections.from_results(image_id, of_image, [iou_type]))
    return evaluation.finish()["result"]
