"""Detectron2's evaluator for long-tailed detection and instance segmentation."""

import contextlib
import importlib.metadata
import logging
import os
import time
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..atomic_write import atomic_file
from ..data.class_statistics import ClassStatistics
from ..data.frequency_groups import GROUP_NAMES
from ..data.register import is_own_dataset
from ..rank_barrier import wait_for_all
from .detections import Detections
from .ground_truth import load_ground_truth
from .lvis_evaluation import DETECTIONS_PER_CLASS, LVISEvaluation
from .lvis_result import LVISResult
from .matches import calibration_errors
from .official_engine import best_of_each_class, evaluate_officially
from .result import RESULTS, Result, category_records, results_table
from .results_file import CollectedResults

# After so many new ones, detections that cannot count for Fixed AP any more are dropped.
NEW_DETECTIONS = 1_000_000


class LongTailLVISEvaluator(DatasetEvaluator):
    """
    LVIS box and mask AP of a dataset in LVIS or COCO format.

    Mask AP is computed if the model gives masks. Images of the dataset that were not processed
    count as images without detections.

    Every rank matches its own images as they come, and sends rank 0 the outcome and the detections
    at the end. The numbers are the same, to the bit, for any number of ranks.

    For Fixed AP a model may give any number of detections an image. Kept are the 300 best of each
    image, which AP needs, the 10,000 best of each class that the rank has seen, and up to a million
    new ones. In the end the first two kinds are left, of all ranks, in memory and in the file.

    Attributes:
        ground_truth: annotations as ``load_ground_truth`` returns them.
        result: :class:`~eql_seesaw.evaluation.result.Result` of the last :meth:`evaluate`, on the
            ranks that report; else None.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        ground_truth: dict[str, Any] | None = None,
        class_statistics: ClassStatistics | None = None,
        max_detections: int = 300,
        engine: str = "hotcoco",
        fixed_ap: bool = False,
        boundary_ap: bool = False,
        distributed: bool = True,
    ):
        """
        Args:
            dataset_name: a registered dataset whose metadata has ``json_file``.
            output_dir: folder for the files of :mod:`.result`; None writes none.
            ground_truth: of the dataset, as ``load_ground_truth`` returns it; None to read and
                check its file.
            class_statistics: statistics of the training set: ``groups``, "r", "c" or "f" of each
                class, for files without frequencies, and ``image_counts``, (K,), for the table.
                Frequencies of the file win, with a warning where they are others.
                None where the file has frequencies.
            max_detections: detections that count per image, over all classes.
            engine: "hotcoco", or "lvis" for the official package; the numbers are the same.
            fixed_ap: also compute Fixed AP, see :meth:`.LVISEvaluation.fixed_result`, and AP-pool,
                see :meth:`.LVISEvaluation.pooled_ap`.
            boundary_ap: also compute Boundary AP, see :mod:`.boundary`, if there are masks.
            distributed: bring the images of all ranks together on rank 0. False: each process
                evaluates its own.

        Raises:
            FileNotFoundError, ValueError: as ``load_ground_truth``, or the dataset's category ids
                do not fit its annotation file.
        """
        self._logger = logging.getLogger(__name__)
        self._dataset_name = dataset_name
        self._output_dir = output_dir
        self._class_statistics = class_statistics
        self._max_detections = max_detections
        self._engine = engine
        self._fixed_ap = fixed_ap
        self._boundary_ap = boundary_ap
        self._distributed = distributed
        self._metadata = MetadataCatalog.get(dataset_name)
        self.result: Result | None = None
        if ground_truth is None:
            groups = None if class_statistics is None else class_statistics.groups
            ground_truth = load_ground_truth(self._metadata.json_file, groups)
        self.ground_truth = ground_truth
        self._category_ids = self._find_category_ids()
        if class_statistics is not None and (comm.is_main_process() or not distributed):
            self._warn_of_other_groups(class_statistics.groups)
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self._evaluation = LVISEvaluation(
            self.ground_truth, self._max_detections, self._fixed_ap, self._boundary_ap
        )
        self._results = CollectedResults()
        self._file_names: dict[int, str | None] = {}
        self._num_new = 0

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """
        Args:
            inputs: one dict per image, with "image_id" and, for pictures, "file_name".
            outputs: one dict per image, with "instances", an ``Instances`` that has
                ``pred_boxes``, ``scores``, ``pred_classes`` and, for mask AP, ``pred_masks`` or
                ``pred_rles`` (see :func:`.rle_postprocessing.with_rles`).
        """
        for image, output in zip(inputs, outputs, strict=True):
            detections = Detections.from_instances(
                image["image_id"], output["instances"], self._category_ids
            )
            self.add(detections, image.get("file_name"))

    def add(self, detections: Detections, file_name: str | None = None) -> None:
        """
        Evaluate one image's detections; an image that comes a second time is left out.

        Args:
            detections: with the annotation file's category ids. Either all images have masks, or
                none.
            file_name: for pictures.

        Raises:
            ValueError: as ``LVISEvaluation.add``.
        """
        if detections.image_id in self._file_names:
            return
        if self._fixed_ap:
            detections = self._evaluation.contenders(detections)
        self._results.add(detections)
        self._evaluation.add(detections)
        self._file_names[detections.image_id] = file_name and os.path.abspath(file_name)
        self._num_new += len(detections.scores)
        if self._num_new >= NEW_DETECTIONS:
            self._drop_beaten()

    def evaluate(self) -> dict:
        """
        Evaluate what was processed, and forget it. All ranks return together, however long one of
        them takes.

        Returns:
            {"bbox": {"AP": percent, "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf",
            "AR", "ARs", "ARm", "ARl", "ARr", "ARc", "ARf", "ECE", "ECEr", "ECEc", "ECEf"}};
            "segm" likewise if the model gave masks; and as asked for, without ECE, "bbox_fixed",
            "segm_fixed", without AR, "boundary", and AP, APr, APc, APf of "bbox_pool", "segm_pool".
            A metric without ground truth is left out. {} on ranks that do not report.
        """
        reports = comm.is_main_process() or not self._distributed
        self._drop_beaten()
        if self._distributed and comm.get_world_size() > 1:
            comm.synchronize()  # the ordinary one: a rank that stalls over its images is found
            self._gather()
        self.result = self._report() if reports else None
        if self._distributed:
            wait_for_all()  # one rank has more to do than the others
        self.reset()
        return self.result.metrics if self.result is not None else {}

    def _drop_beaten(self, rivals=()):
        """Forget detections that are not kept for Fixed AP."""
        if self._fixed_ap:
            for image_id, is_kept in self._evaluation.drop_beaten(rivals).items():
                self._results.select(image_id, is_kept)
        self._num_new = 0

    def _gather(self):
        """Bring what all ranks have matched together on rank 0."""
        self._logger.info(f"rank {comm.get_rank()} evaluated {len(self._file_names)} images")
        if self._fixed_ap:
            rankings = comm.all_gather(self._evaluation.ranking())
            del rankings[comm.get_rank()]
            self._drop_beaten(rankings)
        ranks = comm.gather((self._results, self._file_names, self._evaluation.state()), dst=0)
        for results, file_names, state in ranks[1:]:
            self._evaluation.merge(state)
            self._results.of_images.update(results.of_images)
            self._results.iou_types = self._results.iou_types or results.iou_types
            self._file_names.update(file_names)

    def _report(self) -> Result:
        """Compute, log and write the numbers of what is gathered here."""
        evaluation, iou_types = self._evaluation, self._results.iou_types or ("bbox",)
        self._warn_if_incomplete()
        evaluation.add_remaining(iou_types)
        if self._engine == "lvis" and any(self._results.of_images.values()):  # it fails without any
            results = self._official_results()
        else:
            results = {t: evaluation.result(t) for t in iou_types}
            if self._fixed_ap:
                results.update({f"{t}_fixed": evaluation.fixed_result(t) for t in iou_types})
        matches = {t: evaluation.matches(t) for t in iou_types}
        groups = [category["frequency"] for category in self.ground_truth["categories"]]
        metrics = {name: dict(of_name.metrics) for name, of_name in results.items()}
        for iou_type in iou_types:
            metrics[iou_type].update(calibration_errors(matches[iou_type], groups))
        if self._fixed_ap:
            metrics.update({f"{t}_pool": evaluation.pooled_ap(t) for t in iou_types})
        if self._boundary_ap and "segm" in iou_types:
            boundary = evaluation.result("boundary").metrics
            metrics["boundary"] = {k: v for k, v in boundary.items() if "AR" not in k}

        counts = None if self._class_statistics is None else self._class_statistics.image_counts
        result = Result(
            dataset=self._dataset_name,
            annotation_file=os.path.abspath(self._metadata.json_file),
            engine=f"{self._engine} {importlib.metadata.version(self._engine)}",
            max_detections=self._max_detections,
            num_images=len(self.ground_truth["images"]),
            num_processed_images=len(self._file_names),
            date=time.strftime("%Y-%m-%d %H:%M"),
            metrics={
                name: {metric: value for metric, value in numbers.items() if value is not None}
                for name, numbers in metrics.items()
            },
            categories=category_records(
                self.ground_truth, counts, {t: results[t] for t in iou_types}
            ),
            file_names=self._file_names,
        )
        result.matches, result.detections = matches, self._results
        result.ground_truth = self.ground_truth
        self._logger.info(
            f"LVIS evaluation of {self._dataset_name} ({result.num_images} images, "
            f"at most {self._max_detections} detections each, by {result.engine}):\n"
            f"{results_table(result.metrics)}"
        )
        if self._output_dir:
            _remove_old_partial_files(self._output_dir)
            result.save(self._output_dir)
            with atomic_file(os.path.join(self._output_dir, RESULTS), "wb") as f:
                self._results.write(f)
        return result

    def _official_results(self) -> dict[str, LVISResult]:
        ground_truth, iou_types = self.ground_truth, self._results.iou_types
        detections = [
            result
            for image in sorted(ground_truth["images"], key=itemgetter("id"))
            for result in self._results.detections(image["id"]).to_results()
        ]
        limit = self._max_detections
        results = {t: evaluate_officially(ground_truth, detections, t, limit) for t in iou_types}
        if self._fixed_ap:
            best = best_of_each_class(detections, DETECTIONS_PER_CLASS)
            for iou_type in iou_types:
                fixed = evaluate_officially(ground_truth, best, iou_type, max_detections=-1)
                results[f"{iou_type}_fixed"] = fixed
        return results

    def _warn_of_other_groups(self, by_count: Sequence[str]) -> None:
        """Say that the file's groups, which are evaluated, are not those that training logs."""
        categories = self.ground_truth["categories"]
        pairs = zip(categories, by_count, strict=True)
        differ = [
            (c["name"], c["frequency"], group) for c, group in pairs if c["frequency"] != group
        ]
        if differ:
            name, in_file, counted = differ[0]
            self._logger.warning(
                f"{self._metadata.json_file}: {len(differ)} of {len(categories)} classes are in "
                "another group there than by their images in the training set, such as "
                f"{name!r}: {GROUP_NAMES[in_file]} there, {GROUP_NAMES[counted]} by training "
                "images. APr, APc and APf are of the file's groups."
            )

    def _warn_if_incomplete(self) -> None:
        num_images = len(self.ground_truth["images"])
        if len(self._file_names) < num_images:
            self._logger.warning(
                f"Only {len(self._file_names)} of the {num_images} images of {self._dataset_name} "
                "were processed; the others count as images without detections."
            )
        if not any(self._results.of_images.values()):
            self._logger.warning("The model gave no detections at all, so every AP is 0.")
        if not self.ground_truth["annotations"]:
            self._logger.warning(
                f"{self._metadata.json_file} has no annotations, so every AP is n/a; "
                f"{RESULTS} has the detections, as a server for a test set takes them."
            )

    def _find_category_ids(self) -> np.ndarray:
        """int64 (K,), in the order of contiguous classes."""
        in_file = [category["id"] for category in self.ground_truth["categories"]]
        to_contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id")
        # Without it Detectron2's loader of LVIS takes id - 1 as class, others ascending ids.
        is_loaded = self._metadata.get("thing_classes") and not is_own_dataset(self._dataset_name)
        if to_contiguous is None and is_loaded and in_file != list(range(1, len(in_file) + 1)):
            raise ValueError(
                f"Dataset {self._dataset_name!r} has category ids other than 1 to {len(in_file)}, "
                "but no 'thing_dataset_id_to_contiguous_id' in its metadata."
            )
        category_ids = (
            in_file if to_contiguous is None else sorted(to_contiguous, key=to_contiguous.get)
        )
        if sorted(category_ids) != in_file:
            raise ValueError(
                f"The category ids in {self._metadata.json_file} are not those in the metadata "
                f"of dataset {self._dataset_name!r} (thing_dataset_id_to_contiguous_id)."
            )
        return np.array(category_ids, np.int64)


def _remove_old_partial_files(folder: str) -> None:
    """Delete what evaluations that were killed left behind; another may be writing now."""
    for path in Path(folder).glob("*.[0-9]*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 3600:
                path.unlink()
