"""The outcome of an evaluation, and the files that it leaves in its folder."""

import csv
import dataclasses
import functools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..atomic_write import atomic_file
from ..data.frequency_groups import GROUP_NAMES
from .ground_truth import load_ground_truth
from .lvis_result import LVISResult
from .matches import Matches

# Every detection in LVIS's results format.
RESULTS = "lvis_instances_results.json"
PER_CATEGORY = "per_category.csv"
# An :class:`Evaluation`.
EVALUATION = "evaluation.json"
# A :class:`Matches` for each IoU type.
MATCHES = "matches_{}.npz"
# Folders that an error names.
MAX_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """
    Content of ``evaluation.json``: what was evaluated, and its numbers in percent.

    Attributes:
        dataset, annotation_file: name of the dataset, and its ground truth.
        engine: name and version of what computed the numbers.
        max_detections: that count per image.
        num_images, num_processed_images: of the dataset, and of those the model has seen.
        date: "YYYY-MM-DD HH:MM".
        metrics: {"bbox": {"AP": ...}, ...}; a metric is absent without ground truth, ECE without
            detections.
        categories: in ascending order of id, one dict each: "id", "name", "group" (r, c or f),
            "train_images" (None if unknown), "num_objects" in this dataset, and for "bbox" and
            "segm" a dict of "AP", "AP50", "AR" (None without ground truth).
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
class Result(Evaluation):
    """
    An evaluation with everything that tables, pictures and reports are made of. The evaluator hands
    it on; :meth:`load` makes it of the folder of an earlier one.

    Attributes:
        matches: {"bbox": Matches, "segm": Matches}, or one of them.
        results_file: all detections in LVIS's results format, which memory need not hold; "" if
            none was written.
        known_ground_truth: as ``load_ground_truth`` returns it; None to read it when asked for.
    """

    matches: dict[str, Matches] = dataclasses.field(default_factory=dict)
    results_file: str = ""
    known_ground_truth: dict[str, Any] | None = None

    @functools.cached_property
    def ground_truth(self) -> dict[str, Any]:
        """Annotations as ``load_ground_truth`` returns them."""
        if self.known_ground_truth is not None:
            return self.known_ground_truth
        return load_ground_truth(self.annotation_file, [c["group"] for c in self.categories])

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Result":
        """
        Raises:
            FileNotFoundError, ValueError: the folder lacks a file, or has a broken one.
        """
        folder = os.fspath(folder)
        path = os.path.join(folder, EVALUATION)
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f"{folder} is not the folder of an evaluation: no {EVALUATION}{_below(folder)}"
            )
        with open(path, "rb") as f:
            try:
                evaluation = msgspec.json.decode(f.read(), type=Evaluation)
            except msgspec.DecodeError as error:
                raise ValueError(f"{path}: {error}") from None
        iou_types = [iou_type for iou_type in ("bbox", "segm") if iou_type in evaluation.metrics]
        matches = {t: _load_matches(os.path.join(folder, MATCHES.format(t))) for t in iou_types}
        results_file = os.path.join(folder, RESULTS)
        return cls(
            **vars(evaluation),
            matches=matches,
            results_file=results_file if os.path.isfile(results_file) else "",
        )

    def save(self, folder: str) -> None:
        """
        Write all but the detections into the folder: ``evaluation.json``, ``per_category.csv`` and
        the matches; those of an earlier evaluation are removed.
        """
        saved = {f.name: getattr(self, f.name) for f in dataclasses.fields(Evaluation)}
        with atomic_file(os.path.join(folder, EVALUATION), "wb") as f:
            f.write(msgspec.json.format(msgspec.json.encode(saved)))
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
                        category["name"],
                        GROUP_NAMES[category["group"]],
                        category["train_images"],
                        category["num_objects"],
                        *("" if value is None else f"{value:.3f}" for value in ap),
                    )
                )
        for iou_type in ("bbox", "segm"):
            path = os.path.join(folder, MATCHES.format(iou_type))
            if iou_type in self.matches:
                self.matches[iou_type].save(path)
            elif os.path.exists(path):
                os.remove(path)


def _load_matches(path):
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no such file: {path}; evaluate again.")
    try:
        return Matches.load(path)
    # What numpy raises depends on where the file is broken.
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
    train_images: Sequence[int] | None,
    results: Mapping[str, LVISResult],
) -> list[dict[str, Any]]:
    """
    Args:
        ground_truth: as ``load_ground_truth`` returns it.
        train_images: training images of each class, if known.
        results: by "bbox" and "segm".

    Returns:
        ``Evaluation.categories``.
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
