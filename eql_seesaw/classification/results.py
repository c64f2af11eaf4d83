"""Results of trainings: a file of each, and their tables."""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from ..atomic_write import atomic_file
from .recipes import Recipe
from .training import GROUPS

# Accuracies in percent, None of a group without images.
Result = dict[str, float | None]
COLUMNS = ("overall", *GROUPS)


def seeds_with_result(args: argparse.Namespace, loss: str) -> set[int]:
    """Of a loss's files in the folder that --output names."""
    names = (
        path.stem.removeprefix("seed_") for path in Path(args.output, loss).glob("seed_*.json")
    )
    return {int(name) for name in names if name.isdecimal()}


def settings(args: argparse.Namespace, recipe: Recipe, loss: str, seed: int) -> dict[str, object]:
    """All that decides a result, but for what the files of the data hold."""
    return {
        "data": args.features or args.data,
        "imbalance": args.imbalance,
        "loss": loss,
        "seed": seed,
        "iterations": recipe.iterations,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "bfloat16": recipe.bfloat16,
    }


def read_result(args: argparse.Namespace, recipe: Recipe, loss: str, seed: int) -> Result | None:
    """
    The accuracies in a training's file, FOLDER/LOSS/seed_N.json; None without --output or file.

    Raises:
        ValueError: the file is damaged, or of a training with other settings.
    """
    path = Path(args.output or "", loss, f"seed_{seed}.json")
    if not (args.output and path.exists()):
        return None
    try:
        found = json.loads(path.read_text())
        accuracy = found["accuracy"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged; remove it to train again") from None
    for key, value in settings(args, recipe, loss, seed).items():
        if found.get(key) != value:
            raise ValueError(
                f"{path} has {key} {found.get(key)}, not {value}; choose another --output"
            )
    return accuracy


def write_result(
    args: argparse.Namespace, recipe: Recipe, loss: str, seed: int, accuracy: Result
) -> None:
    """Write a training's file, if there is --output."""
    if not args.output:
        return
    path = Path(args.output, loss, f"seed_{seed}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**settings(args, recipe, loss, seed), "accuracy": accuracy}, indent=1)
    with atomic_file(path) as f:
        f.write(f"{text}\n")


def mean_and_deviation(values: Sequence[float | None], sign: str = "") -> str:
    """Mean, and standard deviation of several; "n/a" where there is a None, or nothing."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return "n/a"
    mean = f"{round(statistics.fmean(known), 1) + 0.0:{sign}.1f}"  # never -0.0
    return f"{mean} ± {statistics.stdev(known):.1f}" if len(known) > 1 else mean


def table(results: dict[str, list[Result]]) -> str:
    """A row of each loss; ``results`` are of the same seeds."""
    rows = [
        [loss, *(mean_and_deviation([run[c] for run in runs]) for c in COLUMNS)]
        for loss, runs in results.items()
    ]
    return tabulate(rows, ["loss", *COLUMNS], disable_numparse=True)


def table_of_differences(results: dict[str, list[Result]]) -> str:
    """Of each loss from the first one, with the same seed, and how many are above 0."""

    def cell(runs: list[Result], column: str) -> str:
        pairs = [(run[column], other[column]) for run, other in zip(runs, baseline)]
        differences = [a - b for a, b in pairs if a is not None and b is not None]
        if not differences:
            return "n/a"
        return f"{mean_and_deviation(differences, '+')} ({sum(x > 0 for x in differences)})"

    baseline, *_ = results.values()
    rows = [[loss, *(cell(runs, c) for c in COLUMNS)] for loss, runs in [*results.items()][1:]]
    return tabulate(rows, ["loss", *COLUMNS], disable_numparse=True)
