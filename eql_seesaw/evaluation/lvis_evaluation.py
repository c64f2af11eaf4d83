"""LVIS evaluation that takes images one after another, in any number of processes."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from .detections import Detections
from .lvis_result import AREA_RANGES, LVISResult, precision_and_recall
from .matches import Matches
from .matching import ALL_AREAS, ALL_AREAS_IOU_50, DETECTION, OBJECT, flags, match_image

# Of each class, for Fixed AP.
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
        iou_types: Sequence[str],
        max_detections: int = 300,
        fixed_ap: bool = False,
    ):
        """
        Args:
            ground_truth: a complete LVIS annotation dict, as ``load_ground_truth`` returns it.
            iou_types: of "bbox", "segm" and "boundary".
            max_detections: that count per image, over all classes; -1 for all.
            fixed_ap: keep what :meth:`fixed_result` needs.

        Raises:
            ValueError: objects of the ground truth have no masks, which ``iou_types`` ask for.
        """
        self._iou_types = tuple(iou_types)
        self._max_detections = max_detections
        self._fixed_ap = fixed_ap
        self._categories = ground_truth["categories"]
        self._classes = {category["id"]: k for k, category in enumerate(self._categories)}
        self._images = {image["id"]: image for image in ground_truth["images"]}
        self._objects_of = defaultdict(list)
        for annotation in ground_truth["annotations"]:
            if self._iou_types != ("bbox",) and "segmentation" not in annotation:
                raise ValueError(
                    f"Ground truth annotation {annotation['id']} of image "
                    f"{annotation['image_id']!r} has no 'segmentation', so mask AP cannot be "
                    "computed."
                )
            self._objects_of[annotation["image_id"]].append(annotation)
        self._added: set[int] = set()
        self._detections = {t: [np.empty(0, DETECTION)] for t in iou_types}
        self._objects = {t: [np.empty(0, OBJECT)] for t in iou_types}
        self._confusions: dict[str, Counter[tuple[int, int]]] = {t: Counter() for t in iou_types}

    def add(self, detections: Detections) -> None:
        """
        Args:
            detections: all detections of an image that was not added before.

        Raises:
            ValueError: the ground truth does not have the image, or a mask does not fit it.
        """
        image = self._images.get(detections.image_id)
        if image is None:
            raise ValueError(
                f"Detection in image {detections.image_id!r}: the ground truth has no image with "
                "this id."
            )
        objects = self._objects_of[detections.image_id]
        for iou_type in self._iou_types:
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

    def add_remaining(self) -> None:
        """Let the images that were not added count as images without detections."""
        for image_id in self._images.keys() - self._added:
            self.add(Detections.from_results(image_id, [], ("bbox", "segm")))

    def state(self) -> tuple[set[int], dict[str, tuple]]:
        """All that was added, for :meth:`merge` in another process."""
        matched = {
            t: (
                np.concatenate(self._detections[t]),
                np.concatenate(self._objects[t]),
                self._confusions[t],
            )
            for t in self._iou_types
        }
        return self._added, matched

    def merge(self, states: Iterable[tuple[set[int], dict[str, tuple]]]) -> None:
        """
        Add what other processes have added.

        Raises:
            ValueError: two of them have added the same image, or some have masks and others not.
        """
        for added, matched in states:
            if matched.keys() != self._detections.keys():
                raise ValueError("Either all images have masks, or none; ranks differ.")
            twice = self._added & added
            if twice:
                raise ValueError(
                    f"Image {min(twice)!r} was evaluated by two processes; each image must come in "
                    "one only. Is the sampler of the test loader one that repeats images?"
                )
            self._added |= added
            for iou_type, (detections, objects, confusions) in matched.items():
                self._detections[iou_type].append(detections)
                self._objects[iou_type].append(objects)
                self._confusions[iou_type] += confusions

    def result(self, iou_type: str) -> LVISResult:
        """LVIS's numbers of all images that were added."""
        detections = np.concatenate(self._detections[iou_type])
        return self._result(iou_type, detections[detections["counts"]])

    def fixed_result(self, iou_type: str) -> LVISResult:
        """
        Fixed AP (Dave et al., "Evaluating Large-Vocabulary Object Detectors: The Devil is in the
        Details", https://arxiv.org/abs/2102.01066): of each class the 10,000 highest scores of the
        whole data set count, of tied ones those that were added first, however many of them are in
        one image. All else is as for LVIS's AP.

        Only a model that gives more than 300 detections an image (TEST.DETECTIONS_PER_IMAGE) makes
        full use of it.
        """
        detections = np.concatenate(self._detections[iou_type])
        detections = detections[np.lexsort((-detections["score"], detections["class"]))]
        first = np.searchsorted(detections["class"], detections["class"])
        counts = np.arange(len(detections)) - first < DETECTIONS_PER_CLASS
        return self._result(iou_type, detections[counts])

    def _result(self, iou_type, detections):
        objects = np.concatenate(self._objects[iou_type])
        num_objects = np.zeros((len(self._categories), len(AREA_RANGES)), dtype=np.int64)
        np.add.at(num_objects, objects["class"], objects["to_find"])
        # Equal scores count in the order of image ids.
        order = np.lexsort((detections["image_id"], -detections["score"], detections["class"]))
        detections = detections[order]
        ends = np.searchsorted(detections["class"], np.arange(len(num_objects)), side="right")
        flags_of_classes = (
            (flags(of_class["right"]), flags(of_class["wrong"]))
            for of_class in np.split(detections, ends[:-1])
        )
        arrays = precision_and_recall(flags_of_classes, num_objects)
        return LVISResult.from_arrays(*arrays, self._categories)

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
