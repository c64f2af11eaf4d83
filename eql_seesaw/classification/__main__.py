"""
Train an image classifier on long-tailed data, with one loss after another.

    python -m eql_seesaw.classification
    python -m eql_seesaw.classification --loss softmax_ce seesaw --seed 0 1 2
    python -m eql_seesaw.classification --data cifar100-lt --root datasets
    python -m eql_seesaw.classification --data imagenet-lt --root datasets/imagenet

Prints top-1 accuracy on the balanced test set: overall, and of the classes with many, a medium
number of and few training images. See docs/classification.md.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from tabulate import tabulate

from .datasets import (
    CIFAR_LAYOUT,
    IMAGENET_LT_LISTS,
    LongTailedData,
    load_cifar100_lt,
    load_digits,
    load_imagenet_lt,
)
from .recipes import RECIPES, Recipe
from .training import GROUPS, accuracies, groups_of_classes, predict, train

# Images of the largest class over those of the smallest; 200 is the EQL paper's.
DEFAULT_IMBALANCE = {"digits": 50.0, "cifar100-lt": 200.0}
LAYOUTS = {
    "cifar100-lt": CIFAR_LAYOUT,
    "imagenet-lt": f"{' and '.join(IMAGENET_LT_LISTS)} beside the images that they name",
}
COLUMNS = ("overall", *GROUPS)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    description, _, rest = __doc__.strip().partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m eql_seesaw.classification",
        description=description,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    losses = list(RECIPES["digits"].losses)
    parser.add_argument("--data", choices=RECIPES, default="digits", help="default: digits")
    parser.add_argument("--root", metavar="FOLDER", help="where the data is; not for digits")
    parser.add_argument("--loss", nargs="+", choices=losses, default=losses, help="default: all")
    parser.add_argument(
        "--seed",
        nargs="+",
        type=int,
        default=[0],
        help="of the images drawn, weights and order; one training for each (default: 0)",
    )
    parser.add_argument(
        "--imbalance",
        type=float,
        help="images of the largest class over those of the smallest "
        "(default: 50 for digits, 200 for cifar100-lt)",
    )
    parser.add_argument("--iterations", type=int, help="default: the recipe's")
    parser.add_argument(
        "--batch-size",
        type=int,
        help="default: the recipe's; the learning rate and the default number of iterations follow",
    )
    parser.add_argument("--workers", type=int, help="processes that load images")
    return parser.parse_args(arguments)


def check_args(args: argparse.Namespace) -> None:
    """Raises ValueError where the options do not fit each other."""
    if args.data == "digits" and args.root is not None:
        raise ValueError("--root is for other --data; the digits come with scikit-learn")
    if args.data != "digits" and args.root is None:
        raise ValueError(
            f"--data {args.data} needs --root, the folder that holds {LAYOUTS[args.data]}"
        )
    if args.data == "imagenet-lt" and args.imbalance is not None:
        raise ValueError("--imbalance is for other --data; ImageNet-LT is long-tailed as it is")
    for option, lowest in (("iterations", 1), ("batch_size", 1), ("workers", 0)):
        value = getattr(args, option)
        if value is not None and value < lowest:
            name = option.replace("_", "-")
            raise ValueError(f"--{name} must be at least {lowest}, got {value}")


def recipe_for(args: argparse.Namespace) -> Recipe:
    """The recipe of the data set, with the changes that the options make."""
    recipe = RECIPES[args.data]
    if args.batch_size is not None:
        scale = args.batch_size / recipe.batch_size
        recipe = replace(
            recipe,
            batch_size=args.batch_size,
            learning_rate=recipe.learning_rate * scale,
            iterations=max(round(recipe.iterations / scale), 1),
        )
    if args.iterations is not None:
        recipe = replace(recipe, iterations=args.iterations)
    if args.workers is not None:
        recipe = replace(recipe, num_workers=args.workers)
    return recipe


def load(args: argparse.Namespace, seed: int) -> LongTailedData:
    """The data; its long tail is drawn anew for each seed, where it is drawn."""
    generator = torch.Generator().manual_seed(seed)
    if args.data == "imagenet-lt":
        return load_imagenet_lt(args.root)
    imbalance = DEFAULT_IMBALANCE[args.data] if args.imbalance is None else args.imbalance
    if args.data == "cifar100-lt":
        return load_cifar100_lt(args.root, imbalance, generator)
    return load_digits(imbalance, generator)


def describe(data: LongTailedData, groups: list[str], recipe: Recipe) -> str:
    counts = data.image_counts
    low, high = recipe.group_bounds
    num_test = len(data.test)  # type: ignore[arg-type]  # torch's Dataset lacks the hint
    return (
        f"{sum(counts):,} training images of {len(counts)} classes, {max(counts):,} to "
        f"{min(counts):,} each; {num_test:,} test images\n"
        f"many: {groups.count('many')} classes with more than {high} images; "
        f"medium: {groups.count('medium')}; few: {groups.count('few')} with fewer than {low}"
    )


def table(results: dict[str, list[dict[str, float | None]]]) -> str:
    """Mean, and standard deviation over seeds where there are several, of each loss."""

    def cell(values: list[Any]) -> str:
        if None in values:
            return "n/a"
        mean = f"{statistics.mean(values):.1f}"
        return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean

    rows = [
        [loss, *(cell([run[c] for run in runs]) for c in COLUMNS)] for loss, runs in results.items()
    ]
    return tabulate(rows, ["loss", *COLUMNS], disable_numparse=True)


def run(args: argparse.Namespace) -> None:
    check_args(args)
    recipe = recipe_for(args)
    results: dict[str, list[dict[str, float | None]]] = {loss: [] for loss in args.loss}
    for seed in args.seed:
        data = load(args, seed)
        groups = groups_of_classes(data.image_counts, recipe.group_bounds)
        if seed == args.seed[0]:
            print(describe(data, groups, recipe), flush=True)
        for loss in results:
            model = train(data, loss, recipe, seed)
            result = accuracies(*predict(model, data.test, recipe), groups)
            results[loss].append(result)
            numbers = ", ".join(f"{c} {result[c]:.1f}" for c in COLUMNS if result[c] is not None)
            print(f"{loss}, seed {seed}: {numbers}", flush=True)
    n = len(args.seed)
    print(f"\nTop-1 accuracy (%){f', mean ± standard deviation over {n} seeds' if n > 1 else ''}")
    print(table(results))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line. What is wrong with options or data ends it with one line and status 1."""
    args = parse_args(arguments)
    # cuDNN's fastest algorithms do not give the same numbers twice.
    torch.backends.cudnn.deterministic = True
    try:
        run(args)
    except (ValueError, OSError, ImportError) as error:
        # The error of a process that loads images has its traceback in front.
        sys.exit(f"error: {str(error).strip().splitlines()[-1]}")


if __name__ == "__main__":
    main()
