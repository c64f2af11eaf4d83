"""Detectron2's evaluator for long-tailed detection and instance segmentation."""

import importlib.metadata
import logging
import os
import resource
import time
from collections import OrderedDict

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from ..atomic_write import atomic_file
from ..data.class_names import category_names
from ..data.class_statistics import ClassStatistics
from ..data.frequency_groups import GROUP_NAMES
from ..data.register import is_own_dataset
from ..rank_barrier import wait_for_all
from .boundary_ap import BoundaryAP
from .calibration import calibration_errors
from .detections import Detections
from .fixed_ap import evaluate_fixed_ap
from .ground_truth import load_ground_truth
from .lvis_evaluation import ENGINES, LVISEvaluation, choose_engine
from .matches import Matcher
from .result import RESULTS, Result, category_records
from .results_file import ResultsWriter, concatenate_results
from .results_table import results_table


class LongTailLVISEvaluator(DatasetEvaluator):
    """
    LVIS box and mask AP of a dataset in LVIS or COCO format.

    Mask AP is computed if the model gives masks. Images of the dataset that were not processed
    count as images without detections.

    Every rank matches its own images as they come, and writes their detections to a temporary
    file. What travels to rank 0 is the outcome of the matching, some kilobytes an image. The
    numbers are the same, to the bit, for any number of ranks.

    Attributes:
        ground_truth: as ``load_ground_truth`` returns it.
        result: outcome of the last evaluation, on ranks that report; None before, and elsewhere.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | None = None,
        *,
        ground_truth: dict | None = None,
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
            output_dir: folder for the files of :class:`.result.Result`; None writes none.
            ground_truth: as ``load_ground_truth`` returns it; None reads ``json_file`` here, before
                any inference.
            class_statistics: statistics of the training set: ``groups``, "r", "c" or "f" of each
                class, for files without frequencies, and ``image_counts``, (K,), for the table.
                Frequencies of the file win, with a warning where they are others.
                None where the file has frequencies.
            max_detections: detections that count per image, over all classes.
            engine: "hotcoco", or "lvis" for the official package; the numbers are the same.
            fixed_ap: also compute Fixed AP, see :mod:`.fixed_ap`; needs ``output_dir``.
            boundary_ap: also compute Boundary AP, see :mod:`.boundary_ap`, if there are masks.
            distributed: bring the images of all ranks together on rank 0. False: each process
                evaluates its own.

        Raises:
            FileNotFoundError, ValueError: as ``load_ground_truth``, or the dataset's category ids
                do not fit its annotation file.
            ImportError: the official package is asked for, but it or OpenCV is missing.
        """
        self._metadata = MetadataCatalog.get(dataset_name)
        if self._metadata.get("json_file") is None:
            raise ValueError(f"Dataset {dataset_name!r} has no 'json_file' in its metadata.")
        if fixed_ap and output_dir is None:
            raise ValueError("Fixed AP is computed from the file of results: give output_dir.")
        if ground_truth is None:
            groups = None if class_statistics is None else class_statistics.groups
            ground_truth = load_ground_truth(self._metadata.json_file, groups)
        self.ground_truth = ground_truth
        self.result: Result | None = None
        self._logger = logging.getLogger(__name__)
        self._dataset_name = dataset_name
        self._output_dir = output_dir
        self._class_statistics = class_statistics
        self._max_detections = max_detections
        self._engine = choose_engine(engine, ground_truth)
        self._fixed_ap = fixed_ap
        self._boundary_ap = boundary_ap
        self._distributed = distributed
        self._reports = comm.is_main_process() or not distributed
        self._build_engine("bbox")  # says here what it cannot do
        if self._reports:
            self._warn_of_other_groups()
        # Some datasets have their category ids in the metadata only after loading.
        self._to_category_id = _dataset_category_ids(dataset_name)
        if self._to_category_id is not None or self._metadata.get("thing_classes"):
            self._check_category_ids()
        self._forget()

    def reset(self) -> None:
        """
        Forget all detections.

        Raises:
            ValueError: the dataset's category ids do not fit its annotation file.
        """
        self._forget()
        self._to_category_id = _dataset_category_ids(self._dataset_name)
        self._check_category_ids()

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
        Evaluate what was processed, and forget it; :attr:`result` keeps the outcome. All ranks
        return together, however long one of them takes.

        Returns:
            {"bbox": {"AP": percent, "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf",
            "AR", "ARs", "ARm", "ARl", "ARr", "ARc", "ARf", "ECE", "ECEr", "ECEc", "ECEf"}};
            "segm" likewise if the model gave masks; and as asked for, without ECE, "bbox_fixed",
            "segm_fixed" and "boundary". A metric without ground truth is left out. {} on ranks
            that do not report.
        """
        if self._distributed:
            comm.synchronize()  # the ordinary one: a rank that stalls over its images is found
        self._iou_types = self._iou_types_of_all_ranks()
        if self._evaluation is None:
            self._start(self._iou_types)
        self._evaluation.flush()  # the last place where detections may turn out to be wrong
        self._writer.close()
        self._gather(self._evaluation)
        num_results = sum(self._all_gather(self._writer.num_results))
        for file_names in self._all_gather(self._file_names):
            self._file_names.update(file_names)
        is_complete = self._write_results() if self._output_dir else False
        metrics = self._report(num_results, is_complete) if self._reports else {}
        self._forget()
        self._wait_for_all()
        return metrics

    def _forget(self):
        self._evaluation = None
        self._iou_types = ("bbox",)
        self._writer = None
        self._file_names = {}

    def _report(self, num_results, is_complete):
        """Compute, log and write the numbers of what is gathered here."""
        self._warn_if_incomplete(num_results)
        finished = self._evaluation.finish()
        fixed = {}
        if self._fixed_ap and is_complete:
            results_file = os.path.join(self._output_dir, RESULTS)
            fixed = evaluate_fixed_ap(
                self.ground_truth, results_file, self._iou_types, self._engine
            )
        metrics = self._metrics(finished, fixed)
        version = importlib.metadata.version(self._engine)  # packages of the engines' names
        self.result = self._result(finished, metrics, f"{self._engine} {version}")
        if self._output_dir:
            self.result.save(self._output_dir)
        self._logger.info(
            f"LVIS evaluation of {self._dataset_name} ({len(self.ground_truth['images'])} images, "
            f"at most {self._max_detections} detections each, by {self.result.engine}):\n"
            f"{results_table(metrics)}"
        )
        return metrics

    def _start(self, iou_types):
        self._iou_types = iou_types
        if self._output_dir:
            os.makedirs(self._output_dir, exist_ok=True)
        self._writer = ResultsWriter(self._output_dir)
        accumulators = {}
        for iou_type in iou_types:
            matcher = Matcher(self.ground_truth, iou_type, self._max_detections)
            accumulators[iou_type] = {"numbers": self._build_engine(iou_type), "matches": matcher}
        if self._boundary_ap and "segm" in iou_types:
            accumulators["segm"]["boundary"] = BoundaryAP(self.ground_truth)
        self._evaluation = LVISEvaluation(self.ground_truth, self._max_detections, accumulators)

    def _build_engine(self, iou_type):
        return ENGINES[self._engine](self.ground_truth, iou_type, self._max_detections)

    def _iou_types_of_all_ranks(self):
        """A rank without images does not know them."""
        own = self._iou_types if self._file_names else ("bbox",)
        return max(self._all_gather(own), key=len)

    def _all_gather(self, value):
        return comm.all_gather(value) if self._distributed else [value]

    def _wait_for_all(self):
        """Where one rank has more to do than the others."""
        if self._distributed:
            wait_for_all()

    def _gather(self, evaluation):
        """Bring what all ranks have matched together on rank 0."""
        if not self._distributed or comm.get_world_size() == 1:
            return
        start = time.perf_counter()
        state = evaluation.state()
        num_images, size = len(state[0]), sum(map(len, state[1]))
        states = comm.gather(state, dst=0)
        if self._reports:
            evaluation.merge(states[1:])
        self._wait_for_all()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        self._logger.info(
            f"rank {comm.get_rank()} evaluated {num_images} images and sent {size / 2**20:.1f} "
            f"MB; {time.perf_counter() - start:.1f} s until all ranks had; peak memory of this "
            f"process so far {memory:.1f} GB"
        )

    def _write_results(self):
        """One file of all ranks' detections, in the order of the ranks; whether it has them all."""
        if not os.path.exists(self._writer.path):
            raise FileNotFoundError(
                f"{self._output_dir} was removed while the model was being evaluated"
            )
        files = self._all_gather((self._writer.path, self._writer.size))
        # Folders that machines share may show a file late, or a part of it.
        missing = [rank for rank, (path, size) in enumerate(files) if _size(path) != size]
        if self._reports:
            if missing:
                self._logger.warning(
                    f"{self._output_dir} is not shared by all machines: {RESULTS} lacks the "
                    f"detections of ranks {missing}, so there is no Fixed AP. The other numbers "
                    "count them."
                )
            with atomic_file(os.path.join(self._output_dir, RESULTS), "wb") as f:
                paths = [path for rank, (path, _) in enumerate(files) if rank not in missing]
                concatenate_results(paths, f)
        self._wait_for_all()  # the others' files are gone with their writers
        return not missing

    def _warn_of_other_groups(self):
        """Where the file's groups, which are evaluated, are not those that training logs."""
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
                f"{self._metadata.json_file} has no annotations, so every AP is n/a."
            )

    def _metrics(self, finished, fixed):
        groups = [category["frequency"] for category in self.ground_truth["categories"]]
        metrics = {}
        for iou_type, outcome in finished.items():
            errors = calibration_errors(outcome["matches"], groups)
            metrics[iou_type] = {**outcome["numbers"].metrics, **errors}
        metrics.update({f"{iou_type}_fixed": result.metrics for iou_type, result in fixed.items()})
        if "boundary" in finished.get("segm", {}):
            metrics["boundary"] = finished["segm"]["boundary"]
        return OrderedDict(
            (name, {key: value for key, value in numbers.items() if value is not None})
            for name, numbers in metrics.items()
        )

    def _result(self, finished, metrics, engine):
        statistics = self._class_statistics
        image_counts = None if statistics is None else statistics.image_counts
        numbers = {iou_type: outcome["numbers"] for iou_type, outcome in finished.items()}
        return Result(
            dataset=self._dataset_name,
            annotation_file=os.path.abspath(self._metadata.json_file),
            engine=engine,
            max_detections=self._max_detections,
            num_images=len(self.ground_truth["images"]),
            num_processed_images=len(self._file_names),
            date=time.strftime("%Y-%m-%d %H:%M"),
            metrics=metrics,
            categories=category_records(self.ground_truth, image_counts, numbers),
            file_names={
                str(image_id): name if name is None else os.path.abspath(name)
                for image_id, name in self._file_names.items()
            },
            matches={iou_type: outcome["matches"] for iou_type, outcome in finished.items()},
            results_file=os.path.join(self._output_dir, RESULTS) if self._output_dir else "",
            given_ground_truth=self.ground_truth,
        )

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
        in_file = [category["id"] for category in self.ground_truth["categories"]]
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


def _dataset_category_ids(dataset_name: str) -> dict[int, int] | None:
    """Contiguous class to category id; None for Detectron2's built-in LVIS sets, where it is +1."""
    metadata = MetadataCatalog.get(dataset_name)
    to_contiguous = metadata.get("thing_dataset_id_to_contiguous_id")
    if to_contiguous is not None:
        return {contiguous: category_id for category_id, contiguous in to_contiguous.items()}
    if is_own_dataset(dataset_name):
        return dict(enumerate(category_names(metadata.json_file)))
    return None


def _size(path: str) -> int | None:
    """Bytes of a file; None if it is not there."""
    return os.path.getsize(path) if os.path.exists(path) else None
