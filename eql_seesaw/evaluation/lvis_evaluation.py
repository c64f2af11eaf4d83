"""LVIS evaluation that takes images one after another, in any number of processes."""

import sys
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.lib.recfunctions import repack_fields

from ..data.frequency_groups import GROUP_NAMES
from .detections import Detections
from .lvis_result import AREA_RANGES, LVISResult, precision_and_recall
from .matches import Matches
from .matching import ALL_AREAS, ALL_AREAS_IOU_50, DETECTION, OBJECT, flags, match_image

# Of each class, for Fixed AP and AP-pool.
DETECTIONS_PER_CLASS = 10_000


class LVISEvaluation:
    """
    Matched images of a data set, and the numbers that are made of them.

    An image is matched once for each IoU type. AP, AR, Fixed AP, calibration, confusions and the
    report are made of the outcome, 45 bytes a detection, which processes can merge: the numbers
    are the same, to the bit, in whatever order and by however many processes images were added.
    Images that none has added count as images without detections.
    """

    def __init__(
        self,
        ground_truth: dict,
        max_detections: int = 300,
        fixed_ap: bool = False,
        boundary_ap: bool = False,
    ):
        """
        Args:
            ground_truth: a complete LVIS annotation dict, as ``load_ground_truth`` returns it.
            max_detections: that count per image, over all classes; -1 for all.
            fixed_ap: keep what :meth:`fixed_result` and :meth:`pooled_ap` need.
            boundary_ap: also match masks as "boundary", see :mod:`.boundary`.
        """
        self._max_detections = sys.maxsize if max_detections < 0 else max_detections
        self._fixed_ap = fixed_ap
        self._boundary_ap = boundary_ap
        self._categories = ground_truth["categories"]
        self._classes = {category["id"]: k for k, category in enumerate(self._categories)}
        self._images = {image["id"]: image for image in ground_truth["images"]}
        self._objects_of = defaultdict(list)
        for annotation in ground_truth["annotations"]:
            self._objects_of[annotation["image_id"]].append(annotation)
        self._added: set[int] = set()
        # Scores that 10,000 others of the class have reached.
        self._thresholds = np.full(len(self._categories), -np.inf)
        # By IoU type: "bbox" and "segm", as the detections have them, and "boundary".
        self._detections: defaultdict[str, list] = defaultdict(lambda: [np.empty(0, DETECTION)])
        self._objects: defaultdict[str, list] = defaultdict(lambda: [np.empty(0, OBJECT)])
        self._confusions: defaultdict[str, Counter[tuple[int, int]]] = defaultdict(Counter)

    def add(self, detections: Detections) -> None:
        """
        Args:
            detections: all detections of an image that was not added before.

        Raises:
            ValueError: a mask does not fit its image, or an object has none.
        """
        image, objects = self._images[detections.image_id], self._objects_of[detections.image_id]
        has_boundaries = self._boundary_ap and detections.masks is not None
        for iou_type in (*detections.iou_types, *(("boundary",) if has_boundaries else ())):
            of_image = match_image(
                image,
                objects,
                detections,
                iou_type,
                self._classes,
                self._max_detections,
                self._fixed_ap and iou_type != "boundary",
            )
            self._detections[iou_type].append(of_image[0])
            self._objects[iou_type].append(of_image[1])
            self._confusions[iou_type].update(of_image[2])
        self._added.add(detections.image_id)

    def contenders(self, detections: Detections) -> Detections:
        """
        Detections of an image, all that the model gave, best first: for AP the highest scores, and
        for Fixed AP those that :meth:`drop_beaten` has not yet found too low for their class.
        """
        order = np.argsort(-detections.scores, kind="stable")
        classes = [self._classes[k] for k in detections.category_ids[order].tolist()]
        is_kept = detections.scores[order] >= self._thresholds[classes]
        is_kept[: self._max_detections] = True
        return detections.select(order[is_kept])

    def drop_beaten(self, rivals: Sequence[np.ndarray] = ()) -> dict[int, np.ndarray]:
        """
        Forget detections that count neither for AP nor for Fixed AP, whatever comes: too low for
        ``max_detections`` of their image and, among :meth:`contenders`, for 10,000 of their class.

        Args:
            rivals: :meth:`ranking` of other processes.

        Returns:
            For each image that loses detections, which stay, bool (N,).
        """
        own = self.ranking()
        everyone = np.concatenate([own, *rivals])
        places = _places(everyone, "class")
        last = everyone[places == DETECTIONS_PER_CLASS - 1]
        self._thresholds[last["class"]] = last["score"]
        is_kept = places[: len(own)] < DETECTIONS_PER_CLASS
        is_kept |= _places(own, "image_id") < self._max_detections
        for iou_type in self._detections.keys() - {"boundary"}:  # has none but those for AP
            self._detections[iou_type] = [np.concatenate(self._detections[iou_type])[is_kept]]
        starts = np.flatnonzero(np.diff(own["image_id"], prepend=-1))
        of_images = zip(own["image_id"][starts].tolist(), np.split(is_kept, starts[1:]))
        return {image_id: kept for image_id, kept in of_images if not kept.all()}

    def ranking(self) -> np.ndarray:
        """Image, class and score of all detections, as they were added."""
        detections = np.concatenate(self._detections[next(iter(self._detections), "bbox")])
        return repack_fields(detections[["image_id", "class", "score"]])

    def add_remaining(self, iou_types: Sequence[str]) -> None:
        """Let the images that were not added count as images without boxes, or masks."""
        for image_id in self._images.keys() - self._added:
            self.add(Detections.from_results(image_id, [], iou_types))

    def state(self) -> tuple[set[int], dict[str, tuple]]:
        """All that was added, for :meth:`merge` in another process."""
        matched = {
            t: (np.concatenate(found), np.concatenate(self._objects[t]), self._confusions[t])
            for t, found in self._detections.items()
        }
        return self._added, matched

    def merge(self, state: tuple[set[int], dict[str, tuple]]) -> None:
        """
        Add what another process has added.

        Raises:
            ValueError: both have added the same image.
        """
        added, matched = state
        if self._added & added:
            raise ValueError(
                f"Image {min(self._added & added)!r} was evaluated by two processes; each image "
                "must come in one only. Is the sampler of the test loader one that repeats images?"
            )
        self._added |= added
        for iou_type, (detections, objects, confusions) in matched.items():
            self._detections[iou_type].append(detections)
            self._objects[iou_type].append(objects)
            self._confusions[iou_type] += confusions

    def result(self, iou_type: str) -> LVISResult:
        """LVIS's numbers of all images that were added."""
        detections = np.concatenate(self._detections[iou_type])
        return self._result(iou_type, detections[detections["counts"]], self._categories)

    def fixed_result(self, iou_type: str) -> LVISResult:
        """
        Fixed AP (Dave et al., "Evaluating Large-Vocabulary Object Detectors: The Devil is in the
        Details", https://arxiv.org/abs/2102.01066): of each class the 10,000 highest scores of the
        whole data set count, of tied ones those of the lower image ids, however many of them are in
        one image. All else is as for LVIS's AP.

        Only a model that gives more than 300 detections an image (TEST.DETECTIONS_PER_IMAGE) makes
        full use of it.
        """
        return self._result(iou_type, self._best(iou_type), self._categories)

    def pooled_ap(self, iou_type: str) -> dict[str, float | None]:
        """
        AP-pool (Dave et al., as :meth:`fixed_result`), by the definition of the authors' code
        (https://github.com/achalddave/large-vocab-devil, ``LVISPooledEval``): matched within their
        classes, the detections of Fixed AP make one curve of precision and recall, all classes
        together, whose scores so have to be comparable. Objects weigh the same, not classes.

        Returns:
            "AP" of all classes, "APr", "APc", "APf" of those of a group, among themselves.
        """
        best = self._best(iou_type)
        pool = np.zeros(len(self._categories), np.int64)
        of_all = self._result(iou_type, best, [{"frequency": ""}], pool)
        groups = [{"frequency": group} for group in GROUP_NAMES]
        pools = np.array([[*GROUP_NAMES].index(c["frequency"]) for c in self._categories])
        of_groups = self._result(iou_type, best, groups, pools)
        metrics = {f"AP{group}": of_groups.metrics[f"AP{group}"] for group in GROUP_NAMES}
        return {"AP": of_all.metrics["AP"], **metrics}

    def _best(self, iou_type):
        detections = np.concatenate(self._detections[iou_type])
        return detections[_places(detections, "class") < DETECTIONS_PER_CLASS]

    def _result(self, iou_type, detections, categories, pools=None):
        """Of categories, or of pools of them; ``pools`` has that of each class."""
        pools = np.arange(len(categories)) if pools is None else pools
        objects = np.concatenate(self._objects[iou_type])
        num_objects = np.zeros((len(categories), len(AREA_RANGES)), dtype=np.int64)
        np.add.at(num_objects, pools[objects["class"]], objects["to_find"])
        detections = detections[(detections["right"] | detections["wrong"]) > 0]
        # Equal scores count in the order of image ids, then of classes.
        classes, image_ids = detections["class"], detections["image_id"]
        order = np.lexsort((classes, image_ids, -detections["score"], pools[classes]))
        detections = detections[order]
        pools = pools[detections["class"]]
        ends = np.searchsorted(pools, np.arange(len(categories)), side="right")
        flags_of_classes = (
            (flags(of_class["right"]), flags(of_class["wrong"]))
            for of_class in np.split(detections, ends[:-1])
        )
        arrays = precision_and_recall(flags_of_classes, num_objects)
        return LVISResult.from_arrays(*arrays, categories)

    def matches(self, iou_type: str) -> Matches:
        """Detections and objects at an IoU of 0.5, as columns, in an order of their own."""
        detections = np.concatenate(self._detections[iou_type])
        objects = np.concatenate(self._objects[iou_type])
        detections = detections[detections["counts"]]
        objects = objects[objects["to_find"][:, ALL_AREAS]]
        # By image and class, then as they are: by descending score.
        detections = detections[np.lexsort((detections["class"], detections["image_id"]))]
        objects = objects[np.lexsort((objects["class"], objects["image_id"]))]
        is_judged = (detections["right"] | detections["wrong"]) & ALL_AREAS_IOU_50 > 0
        confusions = [(*pair, count) for pair, count in sorted(self._confusions[iou_type].items())]
        return Matches(
            image_ids=detections["image_id"].copy(),
            classes=detections["class"].copy(),
            scores=detections["score"].copy(),
            annotation_ids=detections["annotation_id"].copy(),
            ignored=~is_judged,
            gt_image_ids=objects["image_id"].copy(),
            gt_classes=objects["class"].copy(),
            gt_annotation_ids=objects["annotation_id"].copy(),
            gt_scores=objects["score"].copy(),
            confusions=np.array(confusions, dtype=np.int64).reshape(-1, 3),
        )


def _places(detections, key):
    """
    Place of each detection among those of its class or image, the highest score first; of tied ones
    the lower image id, then as they are. int64 (N,), from 0.
    """
    order = np.lexsort((detections["image_id"], -detections["score"], detections[key]))
    groups = detections[key][order]
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order)) - np.searchsorted(groups, groups)
    return places
