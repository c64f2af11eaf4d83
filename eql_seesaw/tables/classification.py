"""Tables of image classification: their rows are trained by :mod:`eql_seesaw.classification`."""

import argparse
import dataclasses
import os
import shlex
import subprocess
import sys
from typing import Any, NoReturn

from ..classification.__main__ import check_args, parse_args, recipe_for
from ..classification.results import read_result, seeds_with_result
from .measure import MeasuredRow, MeasuredTable
from .table import Row, Table

NO_RECIPE = "no recipe here"


@dataclasses.dataclass(frozen=True)
class ClassificationRun:
    """
    A finished training.

    Attributes:
        metrics: percent, by column.
    """

    seed: int
    loss: str
    metrics: dict[str, float]


class RowParser(argparse.ArgumentParser):
    """Parser of a row's arguments, which leaves it to the table to tell of mistakes."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def row_options(table: Table, row: Row, output: str) -> argparse.Namespace:
    """
    Options of the program that trains a row. Results of one data set share a folder: rows that are
    trained alike, also in different tables, share their results.

    Raises:
        ValueError: there is no such option or value, or not one --data and one --loss.
    """
    try:
        options = parse_args(shlex.split(row.classification), RowParser)
        if options.data is None or options.features:
            raise ValueError("it needs --data, and no --features")
        if len(options.loss) != 1:
            raise ValueError(f"it needs --loss with one loss, not {len(options.loss)}")
        check_args(options)
    except ValueError as error:
        raise ValueError(f"table {table.name}: row {row.name}: classification: {error}") from None
    options.output = os.path.join(output, "full", "classification", options.data)
    return options


def measured_row(row: Row, options: argparse.Namespace, num_seeds: int) -> MeasuredRow:
    """
    Args:
        options: of :func:`row_options`.
        num_seeds: seeds 1 to this number are asked for; others that have a result count too.
    """
    (loss,) = options.loss
    runs: list[Any] = []
    reasons = []
    for seed in sorted({*range(1, num_seeds + 1), *seeds_with_result(options, loss)}):
        reason = "not run"
        try:
            accuracy = read_result(options, recipe_for(options), loss, seed)
        except ValueError as error:
            accuracy, reason = None, str(error)
        if accuracy is None:
            reasons.append(f"{row.name} seed {seed}: {reason}")
        else:
            metrics = {"top1" if key == "overall" else key: x for key, x in accuracy.items()}
            known = {key: value for key, value in metrics.items() if value is not None}
            runs.append(ClassificationRun(seed, loss.partition(",")[0], known))
    return MeasuredRow(row, runs, has_masks=False, reasons=reasons)


def measure_classification(table: Table, output: str, num_seeds: int | None) -> MeasuredTable:
    """
    Read the results of a table's rows.

    Args:
        num_seeds: those that are asked for; None for the table's.

    Raises:
        ValueError: as :func:`row_options`.
    """
    rows = []
    for row in table.rows:
        if row.classification:
            options = row_options(table, row, output)
            rows.append(measured_row(row, options, num_seeds or row.seeds))
        else:
            reasons = [f"{row.name}: {row.notes or NO_RECIPE}"]
            rows.append(MeasuredRow(row, [], has_masks=False, reasons=reasons))
    return MeasuredTable(table, "full", table.columns, has_masks=False, rows=rows)


def unfinished_commands(
    table: Table, names: list[str] | None, output: str, num_seeds: int | None
) -> dict[str, list[str]]:
    """
    Args:
        names: of rows; None for all.

    Returns:
        By name of the row, arguments for Python that train it; none where all results are there.

    Raises:
        ValueError: no row of such a name, or as :func:`row_options`.
    """
    commands = {}
    for row in table.select(names):
        if not row.classification:
            continue
        options = row_options(table, row, output)
        seeds = [*range(1, (num_seeds or row.seeds) + 1)]
        finished = {run.seed for run in measured_row(row, options, len(seeds)).runs}
        if not finished.issuperset(seeds):
            commands[row.name] = [
                *("-m", "eql_seesaw.classification", *shlex.split(row.classification)),
                *("--seed", *map(str, seeds), "--output", options.output),
            ]
    return commands


def describe_commands(
    table: Table, names: list[str] | None, output: str, num_seeds: int | None
) -> str:
    """The commands that train the rows, for a person."""
    commands = unfinished_commands(table, names, output, num_seeds)
    lines = [f"{table.name}: {table.title}", "--root is where the data are; change it to yours."]
    for row in table.select(names):
        if row.name in commands:
            lines += ["", f"# {table.name}/{row.name}", f"python {shlex.join(commands[row.name])}"]
        else:
            state = "finished" if row.classification else row.notes or NO_RECIPE
            lines += ["", f"# {table.name}/{row.name}: {state}"]
    return "\n".join(lines)


def run_commands(
    table: Table, names: list[str] | None, output: str, num_seeds: int | None
) -> list[str]:
    """
    Train the rows one after another; those that have all results are left alone.

    Returns:
        One line for each row that failed.
    """
    failures = []
    for name, command in unfinished_commands(table, names, output, num_seeds).items():
        print(f"{table.name}/{name}: python {shlex.join(command)}", flush=True)
        status = subprocess.run([sys.executable, *command]).returncode
        if status != 0:
            failures.append(f"{table.name}/{name}, status {status}; see above")
    return failures
