"""Detectron2's evaluator for long-tailed detection and instance segmentation."""

import csv
import itertools
import json
import logging
import math
import os
from collections import OrderedDict, defaultdict

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm

from ..data.atomic_write import atomic_file
from ..data.class_names import category_names
from ..data.class_statistics import ClassStatistics
from ..data.frequency_groups import GROUP_NAMES
from ..data.register import is_own_dataset
from .ground_truth import load_ground_truth
from .lvis_engine import LVISResult, evaluate_lvis, official_package
from .pictures import choose_images, draw_predictions
from .results_table import METRICS, results_table


class LongTailLVISEvaluator(DatasetEvaluator):
    """
    LVIS box and mask AP of a dataset in LVIS or COCO format.

    Mask AP is computed if the model gives masks. Images of the dataset that were not processed
    count as images without detections.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        class_statistics: ClassStatistics | None = None,
        max_detections: int = 300,
        distributed: bool = True,
        num_pictures: int = 0,
    ):
        """
        Args:
            dataset_name: a registered dataset whose metadata has ``json_file``. The file is read
                and checked here, before any inference, on the ranks that evaluate.
            output_dir: folder of ``lvis_instances_results.json``, every detection in LVIS format,
                and ``per_category.csv``; None writes neither.
            class_statistics: statistics of the training set: ``groups``, "r", "c" or "f" of each
                class, for files without frequencies, and ``image_counts``, (K,), for the table.
                None where the file has frequencies.
            max_detections: detections that count per image, over all classes.
            distributed: gather the detections of all ranks and evaluate on rank 0. False: each
                process evaluates its own.
            num_pictures: images that :meth:`draw` is to show.

        Raises:
            FileNotFoundError, ValueError: as ``load_ground_truth``, or the dataset's category ids
                do not fit its annotation file.
            ImportError: the lvis package or OpenCV is missing.
        """
        self._logger = logging.getLogger(__name__)
        self._dataset_name = dataset_name
        self._output_dir = output_dir
        self._class_statistics = class_statistics
        self._max_detections = max_detections
        self._distributed = distributed
        self._evaluates = comm.is_main_process() or not distributed
        self._num_pictures = num_pictures
        self._metadata = MetadataCatalog.get(dataset_name)
        self._to_category_id = None
        if self._evaluates:
            with official_package():
                pass  # what cannot be imported is said here, before any inference
            json_file = self._metadata.get("json_file")
            if json_file is None:
                raise ValueError(f"Dataset {dataset_name!r} has no 'json_file' in its metadata.")
            self._ground_truth = load_ground_truth(json_file, class_statistics)
            # Some datasets have their category ids in the metadata only after loading.
            self._to_category_id = _dataset_category_ids(dataset_name)
            if self._to_category_id is not None or self._metadata.get("thing_classes"):
                self._check_category_ids()
        self._forget()

    def reset(self):
        """
        Forget all detections.

        Raises:
            ValueError: the dataset's category ids do not fit its annotation file.
        """
        self._forget()
        self._to_category_id = _dataset_category_ids(self._dataset_name)
        if self._evaluates:
            self._check_category_ids()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """
        Args:
            inputs: one dict per image, with "image_id" and, for pictures, "file_name".
            outputs: one dict per image, with "instances", an ``Instances`` that has
                ``pred_boxes``, ``scores``, ``pred_classes`` and, for mask AP, ``pred_masks``.
        """
        for image, output in zip(inputs, outputs, strict=True):
            instances = output["instances"].to("cpu")
            results = instances_to_coco_json(instances, image["image_id"])
            for result in results:
                result["category_id"] = self._category_id(result["category_id"])
            self._results.extend(results)
            self._file_names[image["image_id"]] = image.get("file_name")
            # Also of images without detections: mask AP is then 0, not absent.
            self._has_masks |= instances.has("pred_masks")

    def evaluate(self) -> dict:
        """
        Evaluate what was processed, and forget it but for the images to draw.

        Returns:
            {"bbox": {"AP": percent, "AP50", "AP75", "APs", "APm", "APl", "APr",
            "APc", "APf"}}, and "segm" likewise if the model gave masks. A metric without ground
            truth is left out. {} on ranks above 0.
        """
        results, file_names, has_masks = self._gather()
        self._forget()
        if not self._evaluates:
            return {}
        self._warn_if_incomplete(results, file_names)
        if self._output_dir:
            os.makedirs(self._output_dir, exist_ok=True)
            self._write_results(results)

        tasks = ("bbox", "segm") if has_masks else ("bbox",)
        evaluated = {
            task: evaluate_lvis(self._ground_truth, results, task, self._max_detections)
            for task in tasks
        }
        if self._output_dir:
            self._write_per_category(evaluated)
        metrics = OrderedDict((task, _present_metrics(evaluated[task])) for task in tasks)
        self._logger.info(
            f"LVIS evaluation of {self._dataset_name} ({len(self._ground_truth['images'])} images, "
            f"at most {self._max_detections} detections each):\n{results_table(metrics)}"
        )
        self._keep_to_draw(results, file_names)
        return metrics

    def draw(self, output_file: str, score_threshold: float = 0.3) -> None:
        """
        Draw ``num_pictures`` images of the last evaluation with :func:`draw_predictions`, once.

        Does nothing where nothing was evaluated, as on ranks above 0. What goes wrong is logged
        and not raised: pictures are no reason to lose an evaluation, or to stop a training.

        Args:
            output_file: the PNG.
            score_threshold: predictions below it are not drawn.
        """
        if not self._images_to_draw:
            return
        images, results = self._images_to_draw, self._results_to_draw
        self._images_to_draw, self._results_to_draw = [], []
        try:
            draw_predictions(
                images,
                results,
                self._metadata,
                output_file,
                num_pictures=len(images),
                score_threshold=score_threshold,
                image_counts=self._image_counts(),
            )
        except Exception:
            self._logger.warning(f"Could not draw {output_file}:", exc_info=True)

    def _keep_to_draw(self, results, file_names):
        """Choose the images to draw, and keep their results only: all of LVIS's are gigabytes."""
        if not self._num_pictures:
            return
        images = choose_images(
            self._dataset_dicts(file_names), self._num_pictures, image_counts=self._image_counts()
        )
        chosen = {image["image_id"] for image in images}
        self._images_to_draw = images
        self._results_to_draw = [r for r in results if r["image_id"] in chosen]

    def _dataset_dicts(self, file_names):
        """The processed images with their ground truth, in Detectron2's standard format."""
        annotations = defaultdict(list)
        for annotation in self._ground_truth["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
        category_ids = [category["id"] for category in self._ground_truth["categories"]]
        classes = {self._category_id(k): k for k in range(len(category_ids))}
        return [
            {
                "file_name": file_names[image_id],
                "image_id": image_id,
                "annotations": [
                    {**annotation, "category_id": classes[annotation["category_id"]]}
                    for annotation in annotations[image_id]
                ],
            }
            for image_id in sorted(file_names)
        ]

    def _image_counts(self):
        return None if self._class_statistics is None else self._class_statistics.image_counts

    def _forget(self):
        self._results = []
        self._file_names = {}
        self._has_masks = False
        self._images_to_draw = []
        self._results_to_draw = []

    def _category_id(self, predicted_class):
        if self._to_category_id is None:
            return predicted_class + 1
        if predicted_class not in self._to_category_id:
            raise ValueError(
                f"The model predicts class {predicted_class}, but dataset {self._dataset_name!r} "
                f"has {len(self._to_category_id)} classes; check MODEL.ROI_HEADS.NUM_CLASSES."
            )
        return self._to_category_id[predicted_class]

    def _check_category_ids(self):
        in_file = [category["id"] for category in self._ground_truth["categories"]]
        if self._to_category_id is None:
            if in_file != list(range(1, len(in_file) + 1)):
                raise ValueError(
                    f"Dataset {self._dataset_name!r} has category ids other than 1 to "
                    f"{len(in_file)}, but no 'thing_dataset_id_to_contiguous_id' in its metadata."
                )
        elif sorted(self._to_category_id.values()) != in_file:
            raise ValueError(
                f"The category ids in {self._metadata.json_file} are not those in the metadata of "
                f"dataset {self._dataset_name!r} (thing_dataset_id_to_contiguous_id)."
            )

    def _gather(self):
        if not self._distributed:
            return self._results, self._file_names, self._has_masks
        comm.synchronize()
        gathered = comm.gather((self._results, self._file_names, self._has_masks), dst=0)
        results = list(itertools.chain.from_iterable(rank[0] for rank in gathered))
        file_names = {image_id: name for rank in gathered for image_id, name in rank[1].items()}
        return results, file_names, any(rank[2] for rank in gathered)

    def _warn_if_incomplete(self, results, file_names):
        num_images = len(self._ground_truth["images"])
        if len(file_names) < num_images:
            self._logger.warning(
                f"Only {len(file_names)} of the {num_images} images of {self._dataset_name} were "
                "processed; the others count as images without detections."
            )
        if not results:
            self._logger.warning("The model gave no detections at all, so every AP is 0.")
        if not self._ground_truth["annotations"]:
            self._logger.warning(
                f"{self._metadata.json_file} has no annotations, so every AP is n/a."
            )

    def _write_results(self, results):
        with atomic_file(os.path.join(self._output_dir, "lvis_instances_results.json")) as f:
            f.write("[\n")
            for i, result in enumerate(results):
                f.write((",\n" if i else "") + json.dumps(result))
            f.write("\n]\n")

    def _write_per_category(self, evaluated):
        categories = self._ground_truth["categories"]
        if self._class_statistics is None:
            train_images = [category.get("image_count", "") for category in categories]
        else:
            train_images = [int(count) for count in self._class_statistics.image_counts]
        with atomic_file(os.path.join(self._output_dir, "per_category.csv")) as f:
            writer = csv.writer(f)
            writer.writerow(("category id", "name", "group", "train images", "AP box", "AP mask"))
            for k, category in enumerate(categories):
                writer.writerow(
                    (
                        category["id"],
                        category.get("name", ""),
                        GROUP_NAMES[category["frequency"]],
                        train_images[k],
                        _category_ap_cell(evaluated.get("bbox"), k),
                        _category_ap_cell(evaluated.get("segm"), k),
                    )
                )


def _dataset_category_ids(dataset_name: str) -> dict[int, int] | None:
    """Contiguous class to category id; None for Detectron2's built-in LVIS sets, where it is +1."""
    metadata = MetadataCatalog.get(dataset_name)
    to_contiguous = metadata.get("thing_dataset_id_to_contiguous_id")
    if to_contiguous is not None:
        return {contiguous: category_id for category_id, contiguous in to_contiguous.items()}
    if is_own_dataset(dataset_name):
        return dict(enumerate(category_names(metadata.json_file)))
    return None


def _present_metrics(result: LVISResult) -> dict[str, float]:
    return {name: result.metrics[name] for name in METRICS if result.metrics[name] is not None}


def _category_ap_cell(result: LVISResult | None, k: int) -> str:
    if result is None or math.isnan(result.category_ap[k]):
        return ""
    return f"{result.category_ap[k]:.3f}"
