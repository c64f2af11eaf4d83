"""Published numbers beside those of finished runs."""

import csv
import dataclasses
import math
import os
import statistics
from collections.abc import Sequence

from tabulate import tabulate

from ..data.atomic_write import atomic_file
from .run_state import read_run_state
from .table import Row, Table
from .table_runs import expected_config, reason_not_to_train, row_run, seeds_with_folders

SPREAD = "Measured with several seeds: mean ± standard deviation."


@dataclasses.dataclass(frozen=True)
class MeasuredRow:
    """
    Attributes:
        folders: of the finished runs.
        values: {seed: {column: percent}} of the finished runs; NaN where there was no ground truth.
        reasons: one line for each run that is not finished.
    """

    row: Row
    loss: str
    folders: list[str]
    values: dict[int, dict[str, float]]
    reasons: list[str]


@dataclasses.dataclass(frozen=True)
class MeasuredTable:
    """
    Attributes:
        columns: those of the table that the runs can have.
        has_masks: AP and all other columns but APbox are of masks, not of boxes.
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
    first_runs = {row.name: row_run(table, row, scale, output, 1) for row in table.rows}
    not_trained = {row.name: reason_not_to_train(row, scale) for row in table.rows}
    configs = {
        name: expected_config(run) for name, run in first_runs.items() if not not_trained[name]
    }
    has_masks = all(cfg.MODEL.MASK_ON for cfg in configs.values())
    columns = [name for name in table.columns if has_masks or name != "APbox"]
    measured = []
    for row in table.rows:
        if row.name in configs and not configs[row.name].DATASETS.TEST:
            continue  # it only gives others their weights
        if not_trained[row.name]:
            reasons = [f"{row.name}: {not_trained[row.name]}"]
            measured.append(MeasuredRow(row, "", [], {}, reasons))
            continue
        folders, values, reasons = [], {}, []
        asked = range(1, (num_seeds or row.seeds) + 1)
        for seed in sorted(seeds_with_folders(first_runs[row.name]).union(asked)):
            run = row_run(table, row, scale, output, seed)
            state = read_run_state(run)
            if state.metrics is None:
                reasons.append(f"{row.name} seed {seed}: {state.reason}")
                continue
            folders.append(run.folder)
            values[seed] = {
                column: float(state.metrics.get(_metric(column, has_masks), math.nan))
                for column in columns
            }
        loss = configs[row.name].MODEL.ROI_BOX_HEAD.CLS_LOSS
        measured.append(MeasuredRow(row, loss, folders, values, reasons))
    return MeasuredTable(table, scale, columns, has_masks, measured)


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


def markdown(measured: MeasuredTable) -> str:
    """The table, and why rows are missing, for a person."""
    table = measured.table
    parts = [f"# {table.title}", table.source]
    if table.notes:
        parts.append(table.notes)
    if measured.scale == "mini":
        parts += _mini_parts(measured)
    else:
        parts += _full_parts(measured)
    reasons = [reason for row in measured.rows for reason in row.reasons]
    if reasons:
        parts.append("Not measured:\n\n" + "\n".join(f"- {reason}" for reason in reasons))
    return "\n\n".join(parts) + "\n"


def published_table(table: Table) -> str:
    """A table's numbers as they were printed."""
    lines = [[row.label, *_published(row, table.columns)] for row in table.rows]
    return _pipe_table(["", *table.columns], lines)


def column_values(row: MeasuredRow, column: str) -> list[float]:
    """One value for each seed that has a number."""
    values = [numbers[column] for numbers in row.values.values()]
    return [value for value in values if not math.isnan(value)]


def rows_and_baselines(measured: MeasuredTable) -> list[tuple[MeasuredRow, MeasuredRow]]:
    """
    The rows with the rows that they are compared with, where both have runs of the same seed. Each
    is compared with the table's first where no row of the table names a baseline.
    """
    by_name = {row.row.name: row for row in measured.rows}
    named = {row.row.name: row.row.baseline for row in measured.rows if row.row.baseline}
    if not named:
        first, *others = by_name
        named = dict.fromkeys(others, first)
    pairs = [(by_name[row], by_name[baseline]) for row, baseline in named.items()]
    return [(row, baseline) for row, baseline in pairs if row.values.keys() & baseline.values]


def paired_gains(row: MeasuredRow, baseline: MeasuredRow, column: str) -> list[float]:
    """The difference of each seed that both rows have a number for."""
    seeds = [seed for seed in row.values if seed in baseline.values]
    gains = [row.values[seed][column] - baseline.values[seed][column] for seed in seeds]
    return [gain for gain in gains if not math.isnan(gain)]


def _full_parts(measured):
    columns, lines = measured.columns, []
    for row in measured.rows:
        lines.append([row.row.label, "published", "", *_published(row.row, columns)])
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


def _mini_parts(measured):
    columns = measured.columns
    lines = [
        [
            row.row.label,
            len(row.values),
            *(_mean_and_spread(column_values(row, column)) for column in columns),
        ]
        for row in measured.rows
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
            row.row.label,
            baseline.row.label,
            *(_mean_and_spread(paired_gains(row, baseline, c), signed=True) for c in columns),
        ]
        for row, baseline in rows_and_baselines(measured)
    ]
    if gains:
        parts.append("In miniature, gain of runs over those with the same seed:")
        parts.append(_pipe_table(["", "over", *columns], gains, num_texts=2))
    first, *others = measured.rows
    published = [
        [row.row.label, *(_published_gain(row.row, first.row, c) for c in columns)]
        for row in others
        if row.row.published and first.row.published
    ]
    if published:
        parts.append(
            f"For the direction only, the gains over {first.row.label} that were published for "
            f"{measured.table.dataset}:"
        )
        parts.append(_pipe_table(["", *columns], published))
    return parts


def _write_csv(measured, f):
    is_full = measured.scale == "full"
    writer = csv.writer(f)
    published = ["published", "difference"] if is_full else []
    writer.writerow(
        ["row", "label", "metric", "measured", "standard_deviation", "seeds", *published]
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
                cells += [target, _round(mean - target) if both else None]
            metric = _metric(column, measured.has_masks)
            writer.writerow([row.row.name, row.row.label, metric, *cells])


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


def _published_gain(row, first, column):
    value, base = row.published.get(column), first.published.get(column)
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
