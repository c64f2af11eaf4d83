"""Outcome of an evaluation: an object in a process, files in a folder for the next one."""

import csv
import dataclasses
import functools
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tabulate import tabulate

from ..atomic_write import atomic_file
from ..config import AP_METRICS, OTHER_METRICS
from ..data.frequency_groups import GROUP_NAMES
from .ground_truth import load_ground_truth
from .lvis_result import LVISResult
from .matches import Matches
from .results_file import CollectedResults, ResultsFile

# Every detection in LVIS's results format.
RESULTS = "lvis_instances_results.json"
PER_CATEGORY = "per_category.csv"
# The numbers of a :class:`Result`.
EVALUATION = "evaluation.json"
# A :class:`Matches` for each IoU type.
MATCHES = "matches_{}.npz"
IOU_TYPES = ("bbox", "segm")
ROW_NAMES = {
    "bbox": "box",
    "segm": "mask",
    "bbox_fixed": "box, Fixed AP",
    "segm_fixed": "mask, Fixed AP",
    "bbox_pool": "box, AP-pool",
    "segm_pool": "mask, AP-pool",
    "boundary": "mask, Boundary AP",
}


@dataclasses.dataclass
class Result:
    """
    Outcome of an evaluation, for tables, files, pictures and the report.

    What is no number (:attr:`matches`, :attr:`detections`, :attr:`ground_truth`) is set by whoever
    evaluates; of a folder it is read when it is asked for.

    Attributes:
        dataset, annotation_file: name of the dataset, and its ground truth.
        engine: name and version of what computed the numbers.
        max_detections: that count per image.
        num_images, num_processed_images: of the dataset, and of those the model has seen.
        date: "YYYY-MM-DD HH:MM".
        metrics: {"bbox": {"AP": percent, ...}, ...}; a metric is absent without ground truth, ECE
            without detections.
        categories: in ascending order of id, one dict each: "id", "name", "group" (r, c or f),
            "train_images" (None if unknown), "num_objects" in this dataset, and for "bbox" and
            "segm" a dict of "AP", "AP50", "AR" in percent (None without ground truth).
        file_names: {image id: picture} of the processed images.
        folder: where its files are; "" if there are none.
    """

    dataset: str
    annotation_file: str
    engine: str
    max_detections: int
    num_images: int
    num_processed_images: int
    date: str
    metrics: dict[str, dict[str, float]]
    categories: list[dict[str, Any]]
    file_names: dict[int, str | None]
    folder: str = ""

    @property
    def groups(self) -> list[str]:
        """ "r", "c" or "f" of each class."""
        return [category["group"] for category in self.categories]

    @property
    def results_file(self) -> str:
        """All detections in LVIS's results format."""
        return os.path.join(self.folder, RESULTS)

    @functools.cached_property
    def matches(self) -> dict[str, Matches]:
        """Detections and objects by IoU type, "bbox" and "segm"."""
        paths = {t: os.path.join(self.folder, MATCHES.format(t)) for t in IOU_TYPES}
        return {t: Matches.load(path) for t, path in paths.items() if t in self.metrics}

    @functools.cached_property
    def detections(self) -> CollectedResults | ResultsFile:
        """
        All detections, by image.

        Raises:
            FileNotFoundError, ValueError: as :class:`ResultsFile`.
        """
        return ResultsFile(self.results_file)

    @functools.cached_property
    def ground_truth(self) -> dict:
        """
        As ``load_ground_truth`` returns it.

        Raises:
            FileNotFoundError, ValueError: as ``load_ground_truth``.
        """
        return load_ground_truth(self.annotation_file, self.groups)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Result":
        """
        The result whose files are in a folder.

        Raises:
            FileNotFoundError: it is not the folder of an evaluation.
            ValueError: its file is not what an evaluation writes.
        """
        path = Path(folder, EVALUATION)
        if not path.is_file():
            # Of a run, or of a table's row.
            below = min(Path(folder).rglob(EVALUATION), default=None)
            hint = f"; did you mean {below.parent}?" if below else ""
            raise FileNotFoundError(
                f"{folder} is not the folder of an evaluation: no {EVALUATION}{hint}"
            )
        try:
            result = msgspec.json.decode(path.read_bytes(), type=cls)
        except msgspec.DecodeError as error:
            raise ValueError(f"{path}: {error}") from None
        result.folder = str(folder)
        return result

    def save(self, folder: str) -> None:
        """
        Write numbers, table of categories and matches into a folder. Matches of an earlier
        evaluation that this one lacks are removed.
        """
        os.makedirs(folder, exist_ok=True)
        for iou_type in IOU_TYPES:
            path = Path(folder, MATCHES.format(iou_type))
            if iou_type in self.matches:
                self.matches[iou_type].save(path)
            else:
                path.unlink(missing_ok=True)
        numbers = {key: value for key, value in dataclasses.asdict(self).items() if key != "folder"}
        with atomic_file(os.path.join(folder, EVALUATION), "wb") as f:
            f.write(msgspec.json.format(msgspec.json.encode(numbers)))
        with atomic_file(os.path.join(folder, PER_CATEGORY)) as f:
            writer = csv.writer(f)
            writer.writerow(
                ("category id", "name", "group", "train images", "objects", "AP box", "AP mask")
            )
            for c in self.categories:
                ap = [c.get(iou_type, {}).get("AP") for iou_type in IOU_TYPES]
                texts = ["" if value is None else f"{value:.3f}" for value in ap]
                name, group = as_text(c["name"]), GROUP_NAMES[c["group"]]
                writer.writerow((c["id"], name, group, c["train_images"], c["num_objects"], *texts))
        self.folder = folder


def as_text(name: str) -> str:
    """A cell of a CSV file that a spreadsheet does not take for a formula and compute."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name


def category_records(
    ground_truth: dict,
    train_images: Sequence[int] | np.ndarray | None,
    results: Mapping[str, LVISResult],
) -> list[dict[str, Any]]:
    """
    Args:
        ground_truth: as ``load_ground_truth`` returns it.
        train_images: training images of each class, if known.
        results: by "bbox" and "segm".

    Returns:
        ``Result.categories``.
    """
    categories = ground_truth["categories"]
    num_objects = Counter(annotation["category_id"] for annotation in ground_truth["annotations"])
    records = []
    for k, category in enumerate(categories):
        counts = category.get("image_count") if train_images is None else int(train_images[k])
        record = {
            "id": category["id"],
            "name": category.get("name", str(category["id"])),
            "group": category["frequency"],
            "train_images": counts,
            "num_objects": num_objects[category["id"]],
        }
        for iou_type, result in results.items():
            record[iou_type] = {
                name: None if math.isnan(values[k]) else float(values[k])
                for name, values in result.of_categories.items()
            }
        records.append(record)
    return records


def results_table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """
    Two tables, AP and the other metrics, with one decimal.

    Args:
        metrics: of a :class:`Result`. A metric that is absent is shown as n/a; whole rows may be
            absent. Other keys are left out.
    """
    tables = []
    for tasks, columns in ((ROW_NAMES, AP_METRICS), (IOU_TYPES, OTHER_METRICS)):
        rows = [
            [ROW_NAMES[task], *(decimal(metrics[task].get(metric)) for metric in columns)]
            for task in tasks
            if task in metrics
        ]
        alignment = ("left", *["right"] * len(columns))
        tables.append(
            tabulate(rows, ("", *columns), "pipe", disable_numparse=True, colalign=alignment)
        )
    return "\n\n".join(tables)


def decimal(value: float | None) -> str:
    return "n/a" if value is None or math.isnan(value) else f"{value:.1f}"
