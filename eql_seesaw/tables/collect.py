"""Published numbers beside those of finished runs, as Markdown, CSV and pictures."""

import csv
import os
import statistics
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import IO

from ..atomic_write import atomic_file
from ..classification.results import mean_and_deviation
from .measure import MeasuredRow, MeasuredTable, metric_name
from .plots import GROUPS, draw_ap_by_images, draw_gains, draw_gradient_ratios, draw_rows
from .table import Column, pipe_table

SPREAD = "Measured with several seeds: mean ± standard deviation."


def write_table(measured: MeasuredTable, folder: str) -> list[str]:
    """Write TABLE.md, TABLE.csv and the pictures, which the Markdown shows; returns their paths."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, measured.table.name)
    pictures = draw_table(measured, path)
    with atomic_file(f"{path}.md") as f:
        f.write(markdown(measured, [row.name for row in measured.table.rows]))
        f.writelines(f"\n![{name}]({name})\n" for name in map(os.path.basename, pictures))
    with atomic_file(f"{path}.csv") as f:
        _write_csv(measured, f)
    return [f"{path}.md", f"{path}.csv", *pictures]


def draw_table(measured: MeasuredTable, path: str) -> list[str]:
    """
    Delete the pictures of an earlier state and draw what was measured.

    At full scale, published beside measured. In miniature AP by frequency group and by training
    images; the ratio of gradients, where a run has recorded them; and gains against imbalance, if
    the rows were trained on sets of different imbalance. Their names begin with ``path``.
    """
    kinds = ("", "_ap_by_images", "_gradients", "_imbalance")
    table, ap_by_images, gradients, imbalance = pictures = [f"{path}{kind}.png" for kind in kinds]
    for picture in pictures:
        Path(picture).unlink(missing_ok=True)
    rows = [row for row in measured.rows if row.runs]
    if rows and measured.scale == "full":
        unit = "accuracy (%)" if measured.table.is_classification else "AP"
        draw_rows(measured.rows, measured.columns, unit, table, with_published=True)
    elif rows:
        unit = "mask AP" if measured.has_masks else "box AP"
        draw_rows(rows, list(GROUPS), unit, table)
        draw_ap_by_images(rows, unit, ap_by_images)
        recorded = [row for row in rows if row.gradient_ratios.size]
        if recorded:
            draw_gradient_ratios(recorded, gradients)
        pairs = measured.rows_and_baselines()
        pairs = [(row, baseline) for row, baseline in pairs if row.shares_a_seed(baseline)]
        if len({row.imbalance for row, _ in pairs}) > 1:
            draw_gains(pairs, imbalance)
    return [picture for picture in pictures if os.path.exists(picture)]


def markdown(measured: MeasuredTable, names: Collection[str]) -> str:
    """The rows of these names, whose gains may be over others, and why rows are missing."""
    table = measured.table
    stand_ins = {row.same_as for row in measured.rows if row.row.name in names}
    rows = [row for row in measured.rows if row.row.name in {*names, *stand_ins}]
    parts = [f"# {table.title}", table.source, table.notes]
    parts += (
        _mini_parts(measured, rows) if measured.scale == "mini" else _full_parts(measured, rows)
    )
    runs: dict[str, list[str]] = {}
    for run, reason in (pair for row in rows for pair in row.reasons.items()):
        runs.setdefault(reason, []).append(run)
    if runs:
        lines = [f"- {', '.join(names)}: {reason}" for reason, names in runs.items()]
        parts.append("Not measured:\n\n" + "\n".join(lines))
    return "\n\n".join(part for part in parts if part) + "\n"


def _full_parts(measured: MeasuredTable, rows: list[MeasuredRow]) -> list[str]:
    columns = measured.columns
    lines: list[list[object]] = []
    for row in rows:
        lines.append([row.label, "published", "", *row.row.published_cells(columns)])
        if row.runs:
            lines.append(["", "measured", len(row.runs), *_means(row, columns)])
            differences = [_difference(row, column) for column in columns]
            cells = ["" if x is None else _signed(x) for x in differences]
            lines.append(["", "difference", "", *cells])
    return [
        f"{_unit(measured)} on {measured.table.dataset}. {SPREAD}",
        pipe_table(["", "", "seeds", *columns], lines),
    ]


def _mini_parts(measured: MeasuredTable, rows: list[MeasuredRow]) -> list[str]:
    columns = measured.columns
    dataset = "MUSCIMA++" if measured.table.dataset == "muscima" else "the generated dataset"
    parts = [
        f"In miniature, on {dataset}. {_unit(measured)}. {SPREAD} Not to be compared with numbers "
        "on LVIS."
    ]
    lines = [[row.label, len(row.runs), *_means(row, columns)] for row in rows if row.runs]
    if not lines:
        return parts
    parts.append(pipe_table(["", "seeds", *columns], lines))
    gains, published = [], []
    for row, baseline in measured.rows_and_baselines():
        if row not in rows:
            continue
        labels, numbers, others = [row.label, baseline.label], row.row, baseline.row
        if row.shares_a_seed(baseline):
            spreads = [mean_and_deviation(row.gains(baseline, c), "+") for c in columns]
            gains.append([*labels, *spreads])
        if numbers.published and others.published:
            pairs = [(numbers.published.get(c), others.published.get(c)) for c in columns]
            cells = ["" if a is None or b is None else _signed(a - b) for a, b in pairs]
            published.append([*labels, *cells])
    if gains:
        parts.append("In miniature, gain of runs over those with the same seed:")
        parts.append(pipe_table(["", "over", *columns], gains, num_texts=2))
    if published:
        parts.append(
            "For the direction only, the gains in mask AP that were published for "
            f"{measured.table.dataset}:"
        )
        parts.append(pipe_table(["", "over", *columns], published, num_texts=2))
    return parts


def _write_csv(measured: MeasuredTable, f: IO[str]) -> None:
    is_full = measured.scale == "full"
    writer = csv.writer(f)
    full_columns = ["batch", "published", "difference"] if is_full else []
    writer.writerow(
        ["row", "label", "metric", "measured", "standard_deviation", "seeds", *full_columns]
    )
    for row in measured.rows:
        for column in measured.columns:
            values = list(row.values(column).values())
            mean = statistics.fmean(values) if values else None
            spread = statistics.stdev(values) if len(values) > 1 else None
            cells = [_round(mean), _round(spread), len(values)]
            if is_full:
                published = row.row.published.get(column)
                cells += [row.batch, published, _round(_difference(row, column))]
            metric = metric_name(column, measured.has_masks)
            writer.writerow([row.row.name, row.label, metric, *cells])


def _unit(measured: MeasuredTable) -> str:
    if measured.table.is_classification:
        return "Accuracy in percent"
    return "Mask AP in percent, APbox of boxes" if measured.has_masks else "Box AP in percent"


def _difference(row: MeasuredRow, column: Column) -> float | None:
    """Of the measured mean from the published number; None where one is missing."""
    values, published = row.values(column), row.row.published.get(column)
    if not values or published is None:
        return None
    return statistics.fmean(values.values()) - published


def _means(row: MeasuredRow, columns: Iterable[str]) -> list[str]:
    return [mean_and_deviation([*row.values(column).values()]) for column in columns]


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}"  # never -0.0


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
