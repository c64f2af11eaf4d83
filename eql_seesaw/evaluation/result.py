"""Outcome of an evaluation: an object in a process, files in a folder for the next one."""

import csv
import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..atomic_write import atomic_file
from ..data.frequency_groups import GROUP_NAMES
from .ground_truth import load_ground_truth
from .lvis_result import LVISResult
from .matches import Matches

# Every detection in LVIS's results format.
RESULTS = "lvis_instances_results.json"
PER_CATEGORY = "per_category.csv"
# A :class:`Summary`.
EVALUATION = "evaluation.json"
# A :class:`Matches` for each IoU type.
MATCHES = "matches_{}.npz"
# Folders that an error names.
MAX_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Summary:
    """
    Content of ``evaluation.json``.

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
        file_names: {image id as a string: picture} of the processed images.
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
    file_names: dict[str, str | None]


@dataclasses.dataclass(frozen=True)
class Result(Summary):
    """
    Outcome of an evaluation, for tables, files, pictures and the report.

    Attributes, beside those of :class:`Summary`:
        matches: detections and objects by IoU type, "bbox" and "segm".
        results_file: all detections in LVIS's results format; "" if there is no such file.
        given_ground_truth: what was evaluated against; None: :attr:`ground_truth` reads it.
    """

    matches: dict[str, Matches]
    results_file: str = ""
    given_ground_truth: dict | None = dataclasses.field(default=None, repr=False)

    @property
    def groups(self) -> list[str]:
        """ "r", "c" or "f" of each class."""
        return [category["group"] for category in self.categories]

    @functools.cached_property
    def ground_truth(self) -> dict:
        """
        As ``load_ground_truth`` returns it; that of a loaded folder is read on first use.

        Raises:
            FileNotFoundError, ValueError: as ``load_ground_truth``.
        """
        if self.given_ground_truth is not None:
            return self.given_ground_truth
        return load_ground_truth(self.annotation_file, self.groups)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Result":
        """
        Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: a file is not there, other than that of the detections.
            ValueError: a file is not what an evaluation writes.
        """
        summary = load_summary(folder)
        iou_types = [iou_type for iou_type in ("bbox", "segm") if iou_type in summary.metrics]
        matches: dict[str, Matches] = {
            t: _load_matches(os.path.join(folder, MATCHES.format(t))) for t in iou_types
        }
        results_file = os.path.join(folder, RESULTS)
        return cls(
            **vars(summary),
            matches=matches,
            results_file=results_file if os.path.isfile(results_file) else "",
        )

    def save(self, folder: str | os.PathLike) -> None:
        """
        Write numbers, table of categories and matches into a folder. Matches of an earlier
        evaluation that this one lacks are removed.
        """
        for iou_type in ("bbox", "segm"):
            path = os.path.join(folder, MATCHES.format(iou_type))
            if iou_type in self.matches:
                self.matches[iou_type].save(path)
            elif os.path.exists(path):
                os.remove(path)
        summary = {field.name: getattr(self, field.name) for field in dataclasses.fields(Summary)}
        with atomic_file(os.path.join(folder, EVALUATION), "wb") as f:
            f.write(msgspec.json.format(msgspec.json.encode(summary)))
        with atomic_file(os.path.join(folder, PER_CATEGORY)) as f:
            writer = csv.writer(f)
            writer.writerow(
                ("category id", "name", "group", "train images", "objects", "AP box", "AP mask")
            )
            for category in self.categories:
                ap = [category.get(iou_type, {}).get("AP") for iou_type in ("bbox", "segm")]
                writer.writerow(
                    (
                        category["id"],
                        as_text(category["name"]),
                        GROUP_NAMES[category["group"]],
                        category["train_images"],
                        category["num_objects"],
                        *("" if value is None else f"{value:.3f}" for value in ap),
                    )
                )


def as_text(name: str) -> str:
    """A cell of a CSV file that a spreadsheet does not take for a formula and compute."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name


def load_summary(folder: str | os.PathLike) -> Summary:
    """
    Read the numbers of an evaluation from its folder.

    Raises:
        FileNotFoundError: it is not the folder of an evaluation.
        ValueError: its file is not what an evaluation writes.
    """
    path = os.path.join(folder, EVALUATION)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{folder} is not the folder of an evaluation: no {EVALUATION}{_below(folder)}"
        )
    with open(path, "rb") as f:
        try:
            return msgspec.json.decode(f.read(), type=Summary)
        except msgspec.DecodeError as error:
            raise ValueError(f"{path}: {error}") from None


def _load_matches(path):
    if not os.path.isfile(path):
        folder, name = os.path.split(path)
        raise FileNotFoundError(f"{folder}: no {name}; evaluate again.")
    try:
        return Matches.load(path)
    # numpy raises another kind for each place where the file may be broken.
    except Exception as error:
        raise ValueError(f"{path}: not readable ({error}); evaluate again.") from None


def _below(folder):
    """The end of an error: folders of evaluations below this one, the highest first."""
    # As deep as <table>/<config>/<seed>/inference/<dataset>; deeper may be millions of images.
    for depth in range(1, 6):
        paths = sorted(Path(folder).glob("*/" * depth + EVALUATION))
        if paths:
            names = ", ".join(str(path.parent) for path in paths[:MAX_NAMED])
            more = f" or {len(paths) - MAX_NAMED} more" if len(paths) > MAX_NAMED else ""
            return f"; did you mean {names}{more}?"
    return ""


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
    num_objects = dict.fromkeys((category["id"] for category in categories), 0)
    for annotation in ground_truth["annotations"]:
        num_objects[annotation["category_id"]] += 1
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
            values = result.category_ap[k], result.category_ap50[k], result.category_ar[k]
            record[iou_type] = {
                name: None if math.isnan(value) else float(value)
                for name, value in zip(("AP", "AP50", "AR"), values, strict=True)
            }
        records.append(record)
    return records
