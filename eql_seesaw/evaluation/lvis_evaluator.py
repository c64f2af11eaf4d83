"""Detectron2's evaluator for long-tailed detection and instance segmentation."""

import dataclasses
import importlib.metadata
import logging
import os
import resource
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..atomic_write import atomic_file
from ..command_line import last_line
from ..config import LVIS_ENGINES
from ..data.class_statistics import ClassStatistics
from ..data.frequency_groups import GROUP_NAMES
from ..data.register import is_own_dataset
from ..rank_barrier import wait_for_all
from .calibration import calibration_errors
from .detections import Detections
from .fixed_ap import evaluate_fixed_ap
from .ground_truth import load_ground_truth
from .lvis_evaluation import LVISEvaluation
from .official_engine import evaluate_officially, official_package
from .result import RESULTS, Result, category_records
from .results_file import ResultsFile, ResultsWriter, concatenate_results, whole_files
from .results_table import ROW_NAMES, results_table

# NFS keeps what it knows of a folder for up to a minute.
SECONDS_TO_APPEAR = 65.0


class LongTailLVISEvaluator(DatasetEvaluator):
    """
    LVIS box and mask AP of a dataset in LVIS or COCO format.

    Mask AP is computed if the model gives masks. Images of the dataset that were not processed
    count as images without detections.

    Every rank matches its own images as they come, and writes their detections to a temporary
    file. What travels to rank 0 is the outcome of the matching, some kilobytes an image. The
    numbers are the same, to the bit, for any number of ranks.

    Attributes:
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
                check its file: here on the ranks that report, on others with the first image.
            class_statistics: statistics of the training set: ``groups``, "r", "c" or "f" of each
                class, for files without frequencies, and ``image_counts``, (K,), for the table.
                Frequencies of the file win, with a warning where they are others.
                None where the file has frequencies.
            max_detections: detections that count per image, over all classes.
            engine: "hotcoco", or "lvis" for the official package; the numbers are the same.
            fixed_ap: also compute Fixed AP, see :mod:`.fixed_ap`; needs ``output_dir``.
            boundary_ap: also compute Boundary AP, see :mod:`.boundary`, if there are masks.
            distributed: bring the images of all ranks together on rank 0. False: each process
                evaluates its own.

        Raises:
            FileNotFoundError, ValueError: as ``load_ground_truth``, or the dataset's category ids
                do not fit its annotation file.
            ImportError: the official package is asked for, but it or OpenCV is missing.
        """
        self._logger = logging.getLogger(__name__)
        self._dataset_name = dataset_name
        self._output_dir = output_dir
        self._ground_truth = ground_truth
        self._class_statistics = class_statistics
        self._max_detections = max_detections
        self._engine = engine
        self._fixed_ap = fixed_ap
        self._boundary_ap = boundary_ap
        self._distributed = distributed
        self._reports = comm.is_main_process() or not distributed
        self._metadata = MetadataCatalog.get(dataset_name)
        self.result: Result | None = None
        if self._metadata.get("json_file") is None:
            raise ValueError(f"Dataset {dataset_name!r} has no 'json_file' in its metadata.")
        if engine not in LVIS_ENGINES:
            raise ValueError(
                f"TEST.LVIS_ENGINE is {engine!r}; it must be one of {', '.join(LVIS_ENGINES)}"
            )
        if fixed_ap and output_dir is None:
            raise ValueError("Fixed AP is computed from the file of results: give output_dir.")
        if engine == "lvis":
            with official_package():
                pass  # what cannot be imported is said here, before any inference
        if self._reports:
            self._warn_of_other_groups()
            _ = self._category_ids  # that do not fit are found here
        self._forget()

    @cached_property
    def ground_truth(self) -> dict[str, Any]:
        """Annotations as ``load_ground_truth`` returns them."""
        if self._ground_truth is not None:
            return self._ground_truth
        groups = None if self._class_statistics is None else self._class_statistics.groups
        return load_ground_truth(self._metadata.json_file, groups)

    def reset(self) -> None:
        """
        Forget all detections.

        Raises:
            ValueError: the dataset's category ids, which some datasets have only after loading, do
                not fit its annotation file.
        """
        self._forget()
        self.__dict__.pop("_category_ids", None)
        if self._reports:
            _ = self._category_ids

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
                image["image_id"], output["instances"], self._category_id
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
        image_id = detections.image_id
        if image_id in self._file_names:
            return
        if self._evaluation is None:
            self._start(detections.iou_types)
        elif detections.iou_types != self._iou_types:
            raise ValueError(f"Image {image_id!r}: either all images have masks, or none.")
        self._evaluation.add(detections)
        self._writer.write(detections)
        self._file_names[image_id] = file_name

    def evaluate(self) -> dict:
        """
        Evaluate what was processed, and forget it. All ranks return together, however long one of
        them takes.

        Returns:
            {"bbox": {"AP": percent, "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf",
            "AR", "ARs", "ARm", "ARl", "ARr", "ARc", "ARf", "ECE", "ECEr", "ECEc", "ECEf"}};
            "segm" likewise if the model gave masks; and as asked for, without ECE, "bbox_fixed",
            "segm_fixed" and, without AR, "boundary". A metric without ground truth is left out. {}
            on ranks that do not report.
        """
        if self._distributed:
            comm.synchronize()  # the ordinary one: a rank that stalls over its images is found
        self._iou_types = self._iou_types_of_all_ranks()
        if self._evaluation is None:
            self._start(self._iou_types)
        self._writer.close()
        self._gather()
        num_results = sum(self._all_gather(self._writer.num_results))
        if self._distributed:
            for file_names in comm.gather(self._file_names, dst=0):
                self._file_names.update(file_names)
        written = self._all_gather((self._writer.path, self._writer.num_bytes))
        self._check_own_file()
        self.result = self._report(num_results, written) if self._reports else None
        if self._distributed:
            wait_for_all()  # one rank has more to do than the others
        self._forget()  # and the file that rank 0 has read
        return self.result.metrics if self.result is not None else {}

    def _forget(self):
        self._evaluation = None
        self._iou_types = ("bbox",)
        self._writer = None
        self._file_names = {}

    def _start(self, iou_types):
        self._iou_types = iou_types
        if self._output_dir:
            os.makedirs(self._output_dir, exist_ok=True)
        self._writer = ResultsWriter(self._output_dir)
        boundary = ["boundary"] if self._boundary_ap and "segm" in iou_types else []
        self._evaluation = LVISEvaluation(
            self.ground_truth, [*iou_types, *boundary], self._max_detections
        )

    def _iou_types_of_all_ranks(self):
        """A rank without images does not know them."""
        found = set(self._all_gather(self._iou_types if self._file_names else None)) - {None}
        if len(found) > 1:
            raise ValueError("Either all images have masks, or none; ranks differ.")
        return found.pop() if found else ("bbox",)

    def _all_gather(self, value):
        return comm.all_gather(value) if self._distributed else [value]

    def _gather(self):
        """Bring what all ranks have matched together on rank 0."""
        if not self._distributed or comm.get_world_size() == 1:
            return
        start = time.perf_counter()
        state = self._evaluation.state()
        num_images, size = len(state[0]), sum(map(len, state[1].values()))
        states = comm.gather(state, dst=0)
        if self._reports:
            self._evaluation.merge(states[1:])
        wait_for_all()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        self._logger.info(
            f"rank {comm.get_rank()} evaluated {num_images} images and sent {size / 2**20:.1f} "
            f"MB; {time.perf_counter() - start:.1f} s until all ranks had; peak memory of this "
            f"process so far {memory:.1f} GB"
        )

    def _check_own_file(self):
        if not os.path.exists(self._writer.path):
            raise FileNotFoundError(
                f"{self._output_dir} was removed while the model was being evaluated"
            )

    def _report(self, num_results, written):
        """
        Compute, log and write the numbers of what is gathered here, those that everybody needs
        first: nothing that fails later takes them along.
        """
        self._warn_if_incomplete(num_results)
        # The system's temporary folder is of one machine.
        results_files = whole_files(written, SECONDS_TO_APPEAR if self._output_dir else 0.0)
        missing = [rank for rank, path in enumerate(results_files) if path is None]
        if missing:
            self._logger.warning(
                f"the detections of ranks {missing} are in files that are not seen here, because "
                f"{self._output_dir or 'the temporary folder'} is not shared by all machines: "
                f"{RESULTS} lacks them, and there is no Fixed AP. AP by hotcoco counts them."
            )
        self._evaluation.add_remaining()
        matchings = self._evaluation.matchings
        matches = {t: matchings[t].matches() for t in self._iou_types}
        engine = "hotcoco" if missing else self._engine
        if engine == "lvis":
            results = self._official_results(results_files)
        else:
            results = {t: matchings[t].result() for t in self._iou_types}
        groups = [category["frequency"] for category in self.ground_truth["categories"]]
        metrics = {
            t: {**results[t].metrics, **calibration_errors(matches[t], groups)}
            for t in self._iou_types
        }
        if "boundary" in matchings:
            ap = {k: v for k, v in matchings["boundary"].result().metrics.items() if "AR" not in k}
            metrics["boundary"] = ap
        result = self._result(metrics, results, matches, engine)
        self._logger.info(
            f"LVIS evaluation of {self._dataset_name} ({len(self.ground_truth['images'])} images, "
            f"at most {self._max_detections} detections each, by {result.engine}):\n"
            f"{results_table(result.metrics)}"
        )
        if self._output_dir:
            result.save(self._output_dir)
            path = os.path.join(self._output_dir, RESULTS)
            with atomic_file(path, "wb") as f:
                concatenate_results(filter(None, results_files), f)
            result = dataclasses.replace(result, results_file=path)
        if self._fixed_ap and not missing:
            result = self._with_fixed_ap(result)
        return result

    def _with_fixed_ap(self, result):
        try:
            fixed = evaluate_fixed_ap(
                self.ground_truth, result.results_file, self._iou_types, self._engine
            )
        except (OSError, ValueError, MemoryError) as error:
            self._logger.warning(f"no Fixed AP ({last_line(error)}); all other numbers are saved")
            return result
        metrics = result.metrics | {f"{t}_fixed": _without_none(fixed[t].metrics) for t in fixed}
        in_order = {name: metrics[name] for name in ROW_NAMES if name in metrics}
        self._logger.info(f"with Fixed AP:\n{results_table(in_order)}")
        result = dataclasses.replace(result, metrics=in_order)
        result.save(self._output_dir)
        return result

    def _official_results(self, results_files):
        files = map(ResultsFile, results_files)
        images = self.ground_truth["images"]
        detections = [
            detection
            for results in files
            for image in images
            for detection in results.detections(image["id"]).to_results()
        ]
        return {
            t: evaluate_officially(self.ground_truth, detections, t, self._max_detections)
            for t in self._iou_types
        }

    def _result(
        self,
        metrics: Mapping[str, Mapping[str, float | None]],
        results: Mapping[str, Any],
        matches: dict[str, Any],
        engine: str,
    ) -> Result:
        counts = None if self._class_statistics is None else self._class_statistics.image_counts
        return Result(
            dataset=self._dataset_name,
            annotation_file=os.path.abspath(self._metadata.json_file),
            engine=f"{engine} {importlib.metadata.version(engine)}",
            max_detections=self._max_detections,
            num_images=len(self.ground_truth["images"]),
            num_processed_images=len(self._file_names),
            date=time.strftime("%Y-%m-%d %H:%M"),
            metrics={name: _without_none(numbers) for name, numbers in metrics.items()},
            categories=category_records(self.ground_truth, counts, results),
            file_names={
                str(image_id): name if name is None else os.path.abspath(name)
                for image_id, name in self._file_names.items()
            },
            matches=matches,
            given_ground_truth=self.ground_truth,
        )

    def _warn_of_other_groups(self):
        """Say that the file's groups, which are evaluated, are not those that training logs."""
        if self._class_statistics is None:
            return
        categories, by_count = self.ground_truth["categories"], self._class_statistics.groups
        differ = [k for k, c in enumerate(categories) if c["frequency"] != by_count[k]]
        if differ:
            k = differ[0]
            name = categories[k].get("name", categories[k]["id"])
            self._logger.warning(
                f"{self._metadata.json_file}: {len(differ)} of {len(categories)} classes are in "
                "another group there than by their images in the training set, such as "
                f"{name!r}: {GROUP_NAMES[categories[k]['frequency']]} there, "
                f"{GROUP_NAMES[by_count[k]]} by {self._class_statistics.image_counts[k]} training "
                "images. APr, APc and APf are of the file's groups."
            )

    def _warn_if_incomplete(self, num_results):
        num_images = len(self.ground_truth["images"])
        if len(self._file_names) < num_images:
            self._logger.warning(
                f"Only {len(self._file_names)} of the {num_images} images of {self._dataset_name} "
                "were processed; the others count as images without detections."
            )
        if not num_results:
            self._logger.warning("The model gave no detections at all, so every AP is 0.")
        if not self.ground_truth["annotations"]:
            self._logger.warning(
                f"{self._metadata.json_file} has no annotations, so every AP is n/a; "
                f"{RESULTS} has the detections, as a server for a test set takes them."
            )

    @cached_property
    def _category_ids(self):
        """K category ids, in the order of contiguous classes."""
        in_file = [category["id"] for category in self.ground_truth["categories"]]
        to_contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if to_contiguous is not None:
            category_ids = sorted(to_contiguous, key=to_contiguous.get)
            if sorted(category_ids) != in_file:
                raise ValueError(
                    f"The category ids in {self._metadata.json_file} are not those in the metadata "
                    f"of dataset {self._dataset_name!r} (thing_dataset_id_to_contiguous_id)."
                )
            return category_ids
        # Of Detectron2's own LVIS sets, whose ids are class + 1.
        is_loaded = self._metadata.get("thing_classes") and not is_own_dataset(self._dataset_name)
        if is_loaded and in_file != list(range(1, len(in_file) + 1)):
            raise ValueError(
                f"Dataset {self._dataset_name!r} has category ids other than 1 to {len(in_file)}, "
                "but no 'thing_dataset_id_to_contiguous_id' in its metadata."
            )
        return in_file

    def _category_id(self, predicted_class):
        if not 0 <= predicted_class < len(self._category_ids):
            raise ValueError(
                f"The model predicts class {predicted_class}, but dataset {self._dataset_name!r} "
                f"has {len(self._category_ids)} classes; check MODEL.ROI_HEADS.NUM_CLASSES."
            )
        return self._category_ids[predicted_class]


def _without_none(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value is not None}
