"""Published numbers beside those of finished runs."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import statistics
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from tabulate import tabulate

from ..atomic_write import atomic_file
from .run_state import read_run_state
from .table import Row, Table
from .table_runs import (
    TableRun,
    expected_config,
    row_run,
    rows_not_trained,
    seeds_with_folders,
)

if TYPE_CHECKING:
    from detectron2.config import CfgNode

SPREAD = "Measured with several seeds: mean ± standard deviation."


@dataclasses.dataclass(frozen=True)
class MeasuredRow:
    """
    The finished runs of a row with one batch size.

    Attributes:
        batch: images per batch, where they are not the recipe's; else None.
        loss: ``MODEL.ROI_BOX_HEAD.CLS_LOSS``.
        dataset: the metrics are of.
        folders: {seed: OUTPUT_DIR}.
        metrics: {seed: {"segm/AP": percent, ...}}; NaN where there was no ground truth.
        values: {seed: {column: percent}}.
        reasons: one line for each run that is not finished.
    """

    row: Row
    batch: int | None = None
    loss: str = ""
    dataset: str = ""
    folders: dict[int, str] = dataclasses.field(default_factory=dict)
    metrics: dict[int, dict[str, float]] = dataclasses.field(default_factory=dict)
    values: dict[int, dict[str, float]] = dataclasses.field(default_factory=dict)
    reasons: list[str] = dataclasses.field(default_factory=list)

    @property
    def label(self) -> str:
        return f"{self.row.label}, batch {self.batch}" if self.batch else self.row.label


@dataclasses.dataclass(frozen=True)
class MeasuredTable:
    """
    Attributes:
        columns: those of the table that the runs can have.
        has_masks: AP and all other columns but APbox are of masks, not of boxes.
        rows: in the table's order; at full scale a row is there once for each batch size.
    """

    table: Table
    scale: str
    columns: list[str]
    has_masks: bool
    rows: list[MeasuredRow]


def measure(table: Table, scale: str, output: str, num_seeds: int | None) -> MeasuredTable:
    """
    Read what the runs of a table's rows have left.

    Args:
        scale: "full" or "mini".
        num_seeds: those that are asked for; None for the table's. Others that are there count too.
    """
    not_trained = rows_not_trained(table, scale)
    configs = {
        row.name: expected_config(row_run(table, row, scale, output, 1))
        for row in table.rows
        if row.name not in not_trained
    }
    has_masks = all(cfg.MODEL.MASK_ON for cfg in configs.values())
    columns = [name for name in table.columns if has_masks or name != "APbox"]
    measured = []
    for row in table.rows:
        if row.name in not_trained:
            reason = f"{row.name}: {not_trained[row.name].reason}"
            measured.append(MeasuredRow(row, reasons=[reason]))
        elif configs[row.name].DATASETS.TEST:  # others only give their weights
            seeds = seeds_with_folders(row_run(table, row, scale, output, 1))
            seeds.update(range(1, (num_seeds or row.seeds) + 1))
            runs = [row_run(table, row, scale, output, seed) for seed in sorted(seeds)]
            measured += _measured_rows(runs, configs[row.name], columns, has_masks)
    return MeasuredTable(table, scale, columns, has_masks, measured)


def _measured_rows(
    runs: list[TableRun], cfg: CfgNode, columns: list[str], has_masks: bool
) -> list[MeasuredRow]:
    """Measured rows of a row's runs; numbers of different batch sizes are not averaged."""
    states = [(run, read_run_state(run)) for run in runs]
    recipe = cfg.SOLVER.IMS_PER_BATCH
    batches = {state.batch for _, state in states if state.metrics is not None}
    rows = []
    # The recipe's first.
    for batch in sorted(batches or {recipe}, key=lambda batch: (batch != recipe, batch)):
        alike = [
            (run, state.metrics)
            for run, state in states
            if state.metrics is not None and state.batch == batch
        ]
        metrics = {run.seed: found for run, found in alike}
        rows.append(
            MeasuredRow(
                runs[0].row,
                batch=None if batch == recipe else batch,
                loss=cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS,
                dataset=cfg.DATASETS.TEST[0],
                folders={run.seed: run.folder for run, _ in alike},
                metrics=metrics,
                values={
                    seed: {c: float(found.get(_metric(c, has_masks), math.nan)) for c in columns}
                    for seed, found in metrics.items()
                },
            )
        )
    for run, state in states:
        if state.metrics is None:
            rows[0].reasons.append(f"{run.row.name} seed {run.seed}: {state.reason}")
    return rows


def write_table(measured: MeasuredTable, folder: str, pictures: Sequence[str] = ()) -> None:
    """Write TABLE.md, which shows the pictures below the table, and TABLE.csv."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, measured.table.name)
    names = [os.path.relpath(picture, folder) for picture in pictures]
    with atomic_file(f"{path}.md") as f:
        f.write(markdown(measured))
        f.writelines(f"\n![{name}]({name})\n" for name in names)
    with atomic_file(f"{path}.csv") as f:
        _write_csv(measured, f)


def markdown(measured: MeasuredTable, names: Collection[str] | None = None) -> str:
    """
    The table, and why rows are missing, for a person.

    Args:
        names: of the rows to show; their gains may be over others. None for all.
    """
    table = measured.table
    rows = [row for row in measured.rows if names is None or row.row.name in names]
    parts = [f"# {table.title}", table.source, table.notes]
    if measured.scale == "mini":
        parts += _mini_parts(measured, rows)
    else:
        parts += _full_parts(measured, rows)
    runs: dict[str, list[str]] = {}
    for run, _, reason in (x.partition(": ") for row in rows for x in row.reasons):
        runs.setdefault(reason, []).append(run)
    if runs:
        lines = [f"- {', '.join(names)}: {reason}" for reason, names in runs.items()]
        parts.append("Not measured:\n\n" + "\n".join(lines))
    return "\n\n".join(part for part in parts if part) + "\n"


def published_table(table: Table) -> str:
    """A table's numbers as they were printed, after the names of its rows."""
    lines = [[row.name, row.label, *_published(row, table.columns)] for row in table.rows]
    return _pipe_table(["row", "", *table.columns], lines, num_texts=2)


def column_values(row: MeasuredRow, column: str) -> list[float]:
    """One value for each seed that has a number."""
    values = [numbers[column] for numbers in row.values.values()]
    return [value for value in values if not math.isnan(value)]


def rows_and_baselines(measured: MeasuredTable) -> list[tuple[MeasuredRow, MeasuredRow]]:
    """
    The rows with the rows that they are compared with. Each is compared with the table's first
    where no row of the table names a baseline.
    """
    by_name = {row.row.name: row for row in measured.rows}
    named = {row.row.name: row.row.baseline for row in measured.rows if row.row.baseline}
    if not named:
        first, *others = by_name
        named = dict.fromkeys(others, first)
    return [(by_name[row], by_name[baseline]) for row, baseline in named.items()]


def paired_seeds(row: MeasuredRow, baseline: MeasuredRow) -> list[int]:
    """The seeds that both rows have finished runs of."""
    return [seed for seed in row.values if seed in baseline.values]


def paired_gains(row: MeasuredRow, baseline: MeasuredRow, column: str) -> list[float]:
    """The difference of each seed that both rows have a number for."""
    gains = [
        row.values[seed][column] - baseline.values[seed][column]
        for seed in paired_seeds(row, baseline)
    ]
    return [gain for gain in gains if not math.isnan(gain)]


def _full_parts(measured, rows):
    columns, lines = measured.columns, []
    for row in rows:
        lines.append([row.label, "published", "", *_published(row.row, columns)])
        if row.values:
            values = [column_values(row, column) for column in columns]
            lines.append(["", "measured", len(row.values), *map(_mean_and_spread, values)])
            differences = [
                _difference(value, row.row.published.get(column))
                for column, value in zip(columns, values, strict=True)
            ]
            lines.append(["", "difference", "", *differences])
    return [
        f"{_what(measured)} on {measured.table.dataset}. {SPREAD}",
        _pipe_table(["", "", "seeds", *columns], lines),
    ]


def _mini_parts(measured, rows):
    columns = measured.columns
    pairs = [pair for pair in rows_and_baselines(measured) if pair[0] in rows]
    lines = [
        [
            row.label,
            len(row.values),
            *(_mean_and_spread(column_values(row, column)) for column in columns),
        ]
        for row in rows
        if row.values
    ]
    parts = [
        f"In miniature, on the generated dataset. {_what(measured)}. {SPREAD} Not to be compared "
        "with numbers on LVIS."
    ]
    if not lines:
        return parts
    parts.append(_pipe_table(["", "seeds", *columns], lines))
    gains = [
        [
            row.label,
            baseline.label,
            *(_mean_and_spread(paired_gains(row, baseline, c), signed=True) for c in columns),
        ]
        for row, baseline in pairs
        if paired_seeds(row, baseline)
    ]
    if gains:
        parts.append("In miniature, gain of runs over those with the same seed:")
        parts.append(_pipe_table(["", "over", *columns], gains, num_texts=2))
    published = [
        [row.label, baseline.label, *(_published_gain(row.row, baseline.row, c) for c in columns)]
        for row, baseline in pairs
        if row.row.published and baseline.row.published
    ]
    if published:
        parts.append(
            "For the direction only, the gains in mask AP that were published for "
            f"{measured.table.dataset}:"
        )
        parts.append(_pipe_table(["", "over", *columns], published, num_texts=2))
    return parts


def _write_csv(measured, f):
    is_full = measured.scale == "full"
    writer = csv.writer(f)
    full_columns = ["batch", "published", "difference"] if is_full else []
    writer.writerow(
        ["row", "label", "metric", "measured", "standard_deviation", "seeds", *full_columns]
    )
    for row in measured.rows:
        for column in measured.columns:
            values = column_values(row, column)
            mean = statistics.fmean(values) if values else None
            spread = statistics.stdev(values) if len(values) > 1 else None
            cells = [_round(mean), _round(spread), len(values)]
            if is_full:
                target = row.row.published.get(column)
                both = mean is not None and target is not None
                cells += [row.batch, target, _round(mean - target) if both else None]
            metric = _metric(column, measured.has_masks)
            writer.writerow([row.row.name, row.label, metric, *cells])


def _metric(column, has_masks):
    if column == "APbox":
        return "bbox/AP"
    return f"{'segm' if has_masks else 'bbox'}/{column}"


def _what(measured):
    return "Mask AP in percent, APbox of boxes" if measured.has_masks else "Box AP in percent"


def _pipe_table(headers, lines, num_texts=1):
    alignment = ["left"] * num_texts + ["right"] * (len(headers) - num_texts)
    return tabulate(
        lines, headers=headers, tablefmt="pipe", disable_numparse=True, colalign=alignment
    )


def _published(row, columns):
    values = [row.published.get(column) for column in columns]
    return ["" if value is None else f"{value:.1f}" for value in values]


def _published_gain(row, baseline, column):
    value, base = row.published.get(column), baseline.published.get(column)
    return "" if value is None or base is None else _signed(value - base)


def _difference(values, published):
    if not values or published is None:
        return ""
    return _signed(statistics.fmean(values) - published)


def _mean_and_spread(values, signed=False):
    if not values:
        return "n/a"
    mean = statistics.fmean(values)
    mean = _signed(mean) if signed else f"{mean:.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _signed(value):
    return f"{round(value, 1) + 0.0:+.1f}"  # never -0.0


def _round(value):
    return None if value is None else round(value, 3)
