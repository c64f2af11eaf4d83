"""Numbers that finished runs left in their folders, as the pictures of the tables need them."""

import csv
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..evaluation.result import PER_CATEGORY

# Columns of the table of categories.
AP_COLUMNS = {"bbox": "AP box", "segm": "AP mask"}


@dataclasses.dataclass(frozen=True, eq=False)
class FinishedRun:
    """
    One finished run of K classes. Unknown numbers are NaN.

    Attributes:
        loss: ``MODEL.ROI_BOX_HEAD.CLS_LOSS``.
        metrics: of the last evaluation, in percent: {"segm/AP": ..., "bbox/APr": ...}.
        image_counts: float64 (K,), training images of each class.
        category_ap: float64 (K,) each, in percent: {"bbox": ..., "segm": ...}.
        gradients: float64 (2, K), sums over training of the positive and of the negative
            gradient of each class's logit, a cascade's stages together; None if not recorded.
    """

    loss: str
    metrics: Mapping[str, float]
    image_counts: np.ndarray
    category_ap: dict[str, np.ndarray]
    gradients: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Method:
    """
    A method, trained once or several times.

    Attributes:
        label: as it is to be read.
        seeds: one run for each seed, all with the same classes.
    """

    label: str
    seeds: Sequence[FinishedRun]

    def __post_init__(self):
        """
        Raises:
            ValueError: no run, or runs with different classes.
        """
        if not self.seeds:
            raise ValueError(f"{self.label}: no runs.")
        sizes = sorted({len(run.image_counts) for run in self.seeds})
        if len(sizes) > 1:
            raise ValueError(f"{self.label}: runs with {sizes[0]} and with {sizes[1]} classes.")

    @property
    def loss(self) -> str:
        return self.seeds[0].loss

    @property
    def image_counts(self) -> np.ndarray:
        """float64 (K,), training images of each class."""
        return self.seeds[0].image_counts

    def metric(self, name: str) -> list[float]:
        """One value for each seed; NaN where unknown. Names are such as "segm/AP"."""
        return [run.metrics.get(name, np.nan) for run in self.seeds]

    def category_ap(self, task: str) -> np.ndarray:
        """float64 (K,), means over the seeds that know a class's AP of "bbox" or "segm"."""
        aps = np.array([run.category_ap[task] for run in self.seeds])
        num_known = np.isfinite(aps).sum(axis=0)
        return np.where(num_known, np.nansum(aps, axis=0) / np.maximum(num_known, 1), np.nan)

    def gradient_ratios(self) -> np.ndarray | None:
        """
        float64 (K,), positive over negative gradient, each summed over the seeds.

        0 without positive gradient, infinite with positive alone. None if it was not recorded.
        """
        recorded = [run.gradients for run in self.seeds if run.gradients is not None]
        if not recorded:
            return None
        positive, negative = np.sum(recorded, axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(positive > 0, positive / negative, 0.0)


def read_finished_run(
    folder: str | os.PathLike, dataset: str, loss: str, metrics: Mapping[str, float]
) -> FinishedRun:
    """
    Read what a finished run knows of each class.

    Args:
        folder: its ``OUTPUT_DIR``.
        dataset: of ``DATASETS.TEST``, whose evaluation is read.
        loss: ``MODEL.ROI_BOX_HEAD.CLS_LOSS``.
        metrics: of that evaluation, in percent: {"segm/AP": ..., "bbox/APr": ...}.

    Raises:
        FileNotFoundError: the evaluation's table is not there.
        ValueError: a file is not what a run writes.
    """
    folder = Path(folder)
    image_counts, category_ap = _read_categories(folder / "inference" / dataset / PER_CATEGORY)
    gradient_files = sorted(folder.glob("gradient_statistics*.json"))
    gradients = _read_gradients(gradient_files, len(image_counts))
    return FinishedRun(loss, metrics, image_counts, category_ap, gradients)


def _read_text(path):
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}; has the run finished?")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file.") from None


def _read_categories(path):
    rows = list(csv.DictReader(_read_text(path).splitlines(), restval="no cell"))
    try:
        image_counts = np.array([_number(row["train images"]) for row in rows])
        aps = {
            task: np.array([_number(row[column]) for row in rows])
            for task, column in AP_COLUMNS.items()
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not an evaluation's table of categories ({error}).") from None
    if not rows:
        raise ValueError(f"{path}: no categories.")
    return image_counts, aps


def _read_gradients(paths, num_classes):
    stages = []
    for path in paths:
        try:
            sums = json.loads(_read_text(path))
            stages.append(np.array([sums["positive"], sums["negative"]], np.float64))
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{path}: no lists of numbers 'positive' and 'negative'.") from None
        if not (np.isfinite(stages[-1]).all() and (stages[-1] >= 0).all()):
            raise ValueError(f"{path}: sums must be finite numbers of at least 0.")
        if stages[-1].shape != (2, num_classes):
            raise ValueError(
                f"{path}: 'positive' has {len(sums['positive'])} classes, but the evaluation's "
                f"table has {num_classes}."
            )
    return np.sum(stages, axis=0) if stages else None


def _number(value):
    """An empty cell is an unknown number."""
    return np.nan if value == "" else float(value)
