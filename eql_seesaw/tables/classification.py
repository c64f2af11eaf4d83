"""Tables of image classification: their rows are trained by :mod:`eql_seesaw.classification`."""

import dataclasses
import os
import shlex
import subprocess
import sys
from typing import Any

from ..classification.__main__ import parse_args, recipe_for
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


def row_arguments(row: Row, output: str, seeds: list[int]) -> list[str]:
    """
    Arguments of the program that trains a row. Results of one data set share a folder: rows that
    are trained alike, also in different tables, share their results.
    """
    arguments = shlex.split(row.classification)
    folder = os.path.join(output, "full", "classification", parse_args(arguments).data)
    return [*arguments, "--seed", *map(str, seeds), "--output", folder]


def measured_row(row: Row, output: str, num_seeds: int) -> MeasuredRow:
    """
    Args:
        num_seeds: seeds 1 to this number are asked for; others that have a result count too.
    """
    if not row.classification:
        return MeasuredRow(row, [], False, reasons=[f"{row.name}: {row.notes or NO_RECIPE}"])
    args = parse_args(row_arguments(row, output, [1]))
    (loss,) = args.loss
    runs: list[Any] = []
    reasons = []
    for seed in sorted({*range(1, num_seeds + 1), *seeds_with_result(args, loss)}):
        reason = "not run"
        try:
            accuracy = read_result(args, recipe_for(args), loss, seed)
        except ValueError as error:
            accuracy, reason = None, str(error)
        if accuracy is None:
            reasons.append(f"{row.name} seed {seed}: {reason}")
        else:
            metrics = {"top1" if key == "overall" else key: x for key, x in accuracy.items()}
            known = {key: value for key, value in metrics.items() if value is not None}
            runs.append(ClassificationRun(seed, loss.partition(",")[0], known))
    return MeasuredRow(row, runs, False, reasons=reasons)


def measure_classification(table: Table, output: str, num_seeds: int | None) -> MeasuredTable:
    """
    Read the results of a table's rows.

    Args:
        num_seeds: those that are asked for; None for the table's.
    """
    rows = [measured_row(row, output, num_seeds or row.seeds) for row in table.rows]
    return MeasuredTable(table, "full", table.columns, False, rows)


def unfinished_commands(
    table: Table, names: list[str] | None, output: str, num_seeds: int | None
) -> dict[str, list[str]]:
    """
    Args:
        names: of rows; None for all.

    Returns:
        By name of the row, arguments for Python that train it; none where all results are there.

    Raises:
        ValueError: no row of such a name.
    """
    commands = {}
    for row in table.select(names):
        seeds = [*range(1, (num_seeds or row.seeds) + 1)]
        finished = {run.seed for run in measured_row(row, output, len(seeds)).runs}
        if row.classification and not finished.issuperset(seeds):
            arguments = row_arguments(row, output, seeds)
            commands[row.name] = ["-m", "eql_seesaw.classification", *arguments]
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
