"""Numbers of the finished runs of a table's rows."""

import dataclasses
import functools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import msgspec
import numpy as np

from ..evaluation.result import load_summary
from .plan import rows_not_trained
from .run import Run, row_runs
from .table import AccuracyColumn, Row, Table


class _GradientSums(msgspec.Struct):
    """Content of gradient_statistics.json: a sum over training for each class."""

    positive: list[Annotated[float, msgspec.Meta(ge=0)]]
    negative: list[Annotated[float, msgspec.Meta(ge=0)]]


@dataclasses.dataclass(frozen=True)
class MeasuredRow:
    """
    The finished runs of a row with one batch size, by seed.

    A run of image classification has seed, loss and metrics, and is not asked for more.

    Attributes:
        has_masks: AP and all other columns but APbox are of masks, not of boxes.
        batch: images per batch, where they are not the recipe's; else None.
        reasons: one line for each run that is not finished.
        same_as: name of the row that stands for this one, being trained alike.
    """

    row: Row
    runs: list[Run]
    has_masks: bool
    batch: int | None = None
    reasons: list[str] = dataclasses.field(default_factory=list)
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
        values = {run.seed: (run.metrics or {}).get(metric, math.nan) for run in self.runs}
        return {seed: value for seed, value in values.items() if not math.isnan(value)}

    def gains(self, baseline: "MeasuredRow", column: str) -> list[float]:
        """The difference of each seed that both rows have a number for."""
        values, others = self.values(column), baseline.values(column)
        return [value - others[seed] for seed, value in values.items() if seed in others]

    @functools.cached_property
    def categories(self) -> list[list[dict]]:
        """
        ``Summary.categories`` of each run: numbers of the K classes.

        Raises:
            FileNotFoundError, ValueError: as :func:`load_summary`.
        """
        folders = [
            os.path.join(run.folder, "inference", run.cfg.DATASETS.TEST[0]) for run in self.runs
        ]
        return [load_summary(folder).categories for folder in folders]

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

        Raises:
            ValueError: a file is not what a run writes.
        """
        sums = []
        for run in self.runs:
            for path in Path(run.folder).glob("gradient_statistics*.json"):
                try:
                    content = msgspec.json.decode(path.read_bytes(), type=_GradientSums)
                except msgspec.DecodeError as error:
                    raise ValueError(f"{path}: {error}") from None
                sums.append((content.positive, content.negative))
        if not sums:
            return np.empty(0)
        positive, negative = np.sum(sums, axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(positive > 0, positive / negative, 0.0)

    def shares_a_seed(self, baseline: "MeasuredRow") -> bool:
        return bool({run.seed for run in self.runs} & {run.seed for run in baseline.runs})


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
    columns: Sequence[str]
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


def measure(table: Table, scale: str, output: str, num_seeds: int | None) -> MeasuredTable:
    """
    Read what the runs of a table's rows have left.

    Args:
        scale: "full" or "mini".
        num_seeds: those that are asked for; None for the table's. Others that are there count too.
    """
    not_trained = rows_not_trained(table, scale, output)
    runs = {
        row.name: row_runs(table, row, scale, output, num_seeds or row.seeds)
        for row in table.rows
        if row.name not in not_trained
    }
    has_masks = all(first.cfg.MODEL.MASK_ON for first, *_ in runs.values())
    columns = [name for name in table.columns if has_masks or name != "APbox"]
    measured = []
    for row in table.rows:
        if row.name in not_trained:
            reason, same_as = not_trained[row.name]
            reasons = [f"{row.name}: {reason}"]
            measured.append(MeasuredRow(row, [], has_masks, reasons=reasons, same_as=same_as))
        elif runs[row.name][0].cfg.DATASETS.TEST:  # others only give their weights
            measured += _measured_rows(row, runs[row.name], has_masks)
    return MeasuredTable(table, scale, columns, has_masks, measured)


def _measured_rows(row: Row, runs: list[Run], has_masks: bool) -> list[MeasuredRow]:
    """Measured rows of a row's runs; numbers of different batch sizes are not averaged."""
    finished = [run for run in runs if run.look().metrics is not None]
    reasons = [f"{row.name} seed {run.seed}: {run.reason}" for run in runs if run.reason]
    recipe = runs[0].cfg.SOLVER.IMS_PER_BATCH
    rows: list[MeasuredRow] = []
    # The recipe's first.
    batches = {run.batch for run in finished} or {recipe}
    for batch in sorted(batches, key=lambda batch: (batch != recipe, batch)):
        alike = [run for run in finished if run.batch == batch]
        other_batch = None if batch == recipe else batch
        rows.append(MeasuredRow(row, alike, has_masks, other_batch, [] if rows else reasons))
    return rows
