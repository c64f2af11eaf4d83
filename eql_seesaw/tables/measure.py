"""Numbers of the finished runs of a table's rows."""

import dataclasses
import functools
import json
import math
import os
import shlex
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np

from ..classification.__main__ import parse_args, recipe_for
from ..classification.results import read_result, seeds_with_result
from ..evaluation.result import Result
from .plan import rows_not_trained
from .run import Run, row_runs
from .table import AccuracyColumn, Column, Row, Table

NO_RECIPE = "no recipe here"


class FinishedRun(NamedTuple):
    """
    Attributes:
        loss: its name.
        metrics: percent, by the names of :func:`metric_name`; NaN where there was no ground truth.
        folder, dataset: of detection, the run's folder and the test set that was evaluated.
    """

    seed: int
    loss: str
    metrics: dict[str, float]
    folder: str = ""
    dataset: str = ""


@dataclasses.dataclass(frozen=True)
class MeasuredRow:
    """
    The finished runs of a row with one batch size, by seed.

    Attributes:
        has_masks: AP and all other columns but APbox are of masks, not of boxes.
        batch: images per batch, where they are not the recipe's; else None.
        reasons: why runs are not finished, by their names.
        same_as: name of the row that stands for this one, being trained alike.
    """

    row: Row
    runs: list[FinishedRun]
    has_masks: bool
    batch: int | None = None
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    same_as: str = ""

    @property
    def label(self) -> str:
        return f"{self.row.label}, batch {self.batch}" if self.batch else self.row.label

    @property
    def loss(self) -> str:
        """Name of the loss; "" without runs."""
        return self.runs[0].loss if self.runs else ""

    def values(self, column: str) -> dict[int, float]:
        """{seed: percent}, of the seeds that have a number."""
        metric = metric_name(column, self.has_masks)
        values = {run.seed: run.metrics.get(metric, math.nan) for run in self.runs}
        return {seed: value for seed, value in values.items() if not math.isnan(value)}

    def gains(self, baseline: "MeasuredRow", column: str) -> list[float]:
        """The difference of each seed that both rows have a number for."""
        values, others = self.values(column), baseline.values(column)
        return [value - others[seed] for seed, value in values.items() if seed in others]

    def shares_a_seed(self, baseline: "MeasuredRow") -> bool:
        return bool({run.seed for run in self.runs} & {run.seed for run in baseline.runs})

    @functools.cached_property
    def categories(self) -> list[list[dict]]:
        """``Result.categories`` of each run: numbers of the K classes."""
        return [
            Result.load(os.path.join(run.folder, "inference", run.dataset)).categories
            for run in self.runs
        ]

    @property
    def image_counts(self) -> np.ndarray:
        """float64 (K,), training images of each class, NaN if unknown."""
        return np.array([category["train_images"] for category in self.categories[0]], float)

    @property
    def imbalance(self) -> float:
        """Training images of the most frequent class over those of the rarest that has any."""
        counts = self.image_counts
        return float(np.nanmax(counts) / np.nanmin(counts[counts > 0]))

    @property
    def category_ap(self) -> np.ndarray:
        """float64 (K,), percent; means over the seeds that know a class's AP, NaN if none does."""
        iou_type = "segm" if self.has_masks else "bbox"
        aps = [[c.get(iou_type, {}).get("AP") for c in run] for run in self.categories]
        values = np.array(aps, float)
        num_known = np.isfinite(values).sum(axis=0)
        return np.where(num_known, np.nansum(values, axis=0) / np.maximum(num_known, 1), np.nan)

    @functools.cached_property
    def gradient_ratios(self) -> np.ndarray:
        """
        float64 (K,), positive over negative gradient of each class's logit, each summed over
        training, a cascade's stages, and seeds. 0 without positive gradient, infinite with positive
        alone. float64 (0,) if no run has recorded gradients.
        """
        sums = []
        for run in self.runs:
            for path in Path(run.folder).glob("gradient_statistics*.json"):
                content = json.loads(path.read_text())
                sums.append((content["positive"], content["negative"]))
        if not sums:
            return np.empty(0)
        positive, negative = np.sum(sums, axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(positive > 0, positive / negative, 0.0)


@dataclasses.dataclass(frozen=True)
class MeasuredTable:
    """
    Attributes:
        columns: those of the table that the runs can have.
        has_masks: as of :class:`MeasuredRow`.
        rows: in the table's order; at full scale a row is there once for each batch size.
    """

    table: Table
    scale: str
    columns: Sequence[Column]
    has_masks: bool
    rows: list[MeasuredRow]

    def rows_and_baselines(self) -> list[tuple[MeasuredRow, MeasuredRow]]:
        """
        The rows with the rows that they are compared with. Each is compared with the table's first
        where no row of the table names a baseline.
        """
        by_name = {row.row.name: row for row in self.rows}
        named = {row.row.name: row.row.baseline for row in self.rows if row.row.baseline}
        if not named:
            first, *others = by_name
            named = dict.fromkeys(others, first)
        return [(by_name[row], by_name[baseline]) for row, baseline in named.items()]


def metric_name(column: str, has_masks: bool) -> str:
    """Name of a column in metrics.json; of an accuracy its own."""
    if column in get_args(AccuracyColumn):
        return column
    if column == "APbox":
        return "bbox/AP"
    return f"{'segm' if has_masks else 'bbox'}/{column}"


def has_result(table: Table, row: Row, scale: str, output: str) -> bool:
    """True for a row with a finished run."""
    if table.is_classification:
        return bool(measure_classification(row, output).runs)
    runs = row_runs(table, row, scale, output) if row.split == "val" else ()
    return any(run.look().metrics is not None for run in runs)


def measure(table: Table, scale: str, output: str) -> MeasuredTable:
    """Read what runs of a table's rows have left: of their seeds, and others that are there."""
    if table.is_classification:
        rows = [measure_classification(row, output) for row in table.rows]
        return MeasuredTable(table, scale, table.columns, has_masks=False, rows=rows)
    not_trained = rows_not_trained(table, scale, output)
    runs = {
        row.name: row_runs(table, row, scale, output)
        for row in table.rows
        if row.name not in not_trained
    }
    has_masks = all(first.cfg.MODEL.MASK_ON for first, *_ in runs.values())
    columns = [name for name in table.columns if has_masks or name != "APbox"]
    rows = []
    for row in table.rows:
        if row.name in not_trained:
            reason, same_as = not_trained[row.name]
            reasons = {row.name: reason}
            rows.append(MeasuredRow(row, [], has_masks, reasons=reasons, same_as=same_as))
        elif runs[row.name][0].cfg.DATASETS.TEST:  # others only give their weights
            rows += _measured_rows(row, runs[row.name], has_masks)
    return MeasuredTable(table, scale, columns, has_masks, rows)


def _measured_rows(row: Row, runs: list[Run], has_masks: bool) -> list[MeasuredRow]:
    """Measured rows of a row's runs; numbers of different batch sizes are not averaged."""
    cfg = runs[0].cfg
    loss, (dataset, *_) = cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS, cfg.DATASETS.TEST
    recipe = cfg.SOLVER.IMS_PER_BATCH
    by_batch: dict[int | None, list[FinishedRun]] = {}
    reasons = {}
    for run in runs:
        found = run.look()
        if found.metrics is None:
            reasons[f"{row.name} seed {run.seed}"] = found.reason
        else:
            finished = FinishedRun(run.seed, loss, found.metrics, run.folder, dataset)
            by_batch.setdefault(found.batch, []).append(finished)
    # The recipe's first.
    batches = sorted(by_batch, key=lambda batch: (batch != recipe, batch)) or [recipe]
    rows = [
        MeasuredRow(row, by_batch.get(batch, []), has_masks, None if batch == recipe else batch)
        for batch in batches
    ]
    rows[0].reasons.update(reasons)
    return rows


def measure_classification(row: Row, output: str) -> MeasuredRow:
    """Read the results of a row of image classification, as :func:`measure` does."""
    if not row.classification:
        reasons = {row.name: row.notes or NO_RECIPE}
        return MeasuredRow(row, [], has_masks=False, reasons=reasons)
    options = classification_options(row, output)
    (loss,) = options.loss
    seeds = {*range(1, row.seeds + 1), *seeds_with_result(options, loss)}
    runs, reasons = [], {}
    for seed in sorted(seeds):
        reason = "not run"
        try:
            accuracy = read_result(options, recipe_for(options), loss, seed)
        except ValueError as error:
            accuracy, reason = None, str(error)
        if accuracy is None:
            reasons[f"{row.name} seed {seed}"] = reason
        else:
            metrics = {key: value for key, value in accuracy.items() if value is not None}
            metrics["top1"] = metrics.pop("overall")
            runs.append(FinishedRun(seed, loss.partition(",")[0], metrics))
    return MeasuredRow(row, runs, has_masks=False, reasons=reasons)


def classification_options(row: Row, output: str) -> Namespace:
    """
    Options of the program that trains a row. Results of one data set share a folder: rows that are
    trained alike, also in different tables, share their results.
    """
    options = parse_args(shlex.split(row.classification))
    options.output = os.path.join(output, "full", "classification", options.data)
    return options
