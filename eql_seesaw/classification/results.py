"""Files with the result of one training each."""

import argparse
import json
from pathlib import Path

from ..atomic_write import atomic_file
from .recipes import Recipe

# Accuracies in percent, None of a group without images.
Result = dict[str, float | None]


def result_path(args: argparse.Namespace, loss: str, seed: int) -> Path:
    """Of a training's file in the folder that --output names."""
    return Path(args.output, loss, f"seed_{seed}.json")


def seeds_with_result(args: argparse.Namespace, loss: str) -> set[int]:
    """Of a loss's files in the folder that --output names."""
    names = (
        path.stem.removeprefix("seed_") for path in Path(args.output, loss).glob("seed_*.json")
    )
    return {int(name) for name in names if name.isdecimal()}


def settings(args: argparse.Namespace, recipe: Recipe, loss: str, seed: int) -> dict[str, object]:
    """All that decides a result, but for what the files of the data hold."""
    return {
        "data": args.features or args.data or "digits",
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
    The accuracies in a training's file; None without --output or without the file.

    Raises:
        ValueError: the file is of a training with other settings, or is none of ours.
    """
    if args.output is None or not result_path(args, loss, seed).exists():
        return None
    path = result_path(args, loss, seed)
    try:
        found = json.loads(path.read_text())
        accuracy = found.pop("accuracy")
    except (ValueError, KeyError, AttributeError):
        raise ValueError(f"{path} is not a result of this program") from None
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
    if args.output is None:
        return
    path = result_path(args, loss, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**settings(args, recipe, loss, seed), "accuracy": accuracy}, indent=1)
    with atomic_file(path) as f:
        f.write(f"{text}\n")
