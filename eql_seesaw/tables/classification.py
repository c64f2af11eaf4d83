"""Training the rows of image classification, by :mod:`eql_seesaw.classification`."""

import shlex
import subprocess
import sys

from .measure import NO_RECIPE, classification_options, measure_classification
from .table import Row, Table


def unfinished_command(row: Row, output: str) -> list[str]:
    """Arguments for Python that train a row; none where all results are there, or no recipe is."""
    seeds = [*range(1, row.seeds + 1)]
    finished = {run.seed for run in measure_classification(row, output).runs}
    if not row.classification or finished.issuperset(seeds):
        return []
    return [
        *("-m", "eql_seesaw.classification", *shlex.split(row.classification)),
        *("--seed", *map(str, seeds), "--output", classification_options(row, output).output),
    ]


def describe_commands(table: Table, names: list[str] | None, output: str) -> str:
    """The commands that train the rows, for a person."""
    lines = [f"{table.name}: {table.title}", "--root is where the data are; change it to yours."]
    for row in table.select(names):
        command = unfinished_command(row, output)
        if command:
            lines += ["", f"# {table.name}/{row.name}", f"python {shlex.join(command)}"]
        else:
            state = "finished" if row.classification else row.notes or NO_RECIPE
            lines += ["", f"# {table.name}/{row.name}: {state}"]
    return "\n".join(lines)


def run_commands(table: Table, names: list[str] | None, output: str) -> list[str]:
    """Train the rows without all results one after another; a line for each that failed."""
    failures = []
    for row in table.select(names):
        command = unfinished_command(row, output)
        if not command:
            continue
        print(f"{table.name}/{row.name}: python {shlex.join(command)}", flush=True)
        status = subprocess.run([sys.executable, *command]).returncode
        if status != 0:
            failures.append(f"{table.name}/{row.name}, status {status}; see above")
    return failures
