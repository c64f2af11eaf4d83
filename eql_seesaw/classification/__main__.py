"""
Train an image classifier on long-tailed data, with one loss after another.

    python -m eql_seesaw.classification
    python -m eql_seesaw.classification --loss softmax_ce seesaw seesaw,p=0 --seed 0 1 2
    python -m eql_seesaw.classification --data cifar100-lt --root datasets
    python -m eql_seesaw.classification --data imagenet-lt --root datasets/imagenet
    python -m eql_seesaw.classification --features train.npz test.npz

Prints top-1 accuracy on the balanced test set: overall, and of the classes with many, a medium
number of and few training images. See docs/classification.md.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace

import torch
from tabulate import tabulate

from ..command_line import one_line_errors
from .datasets import (
    CIFAR_LAYOUT,
    IMAGENET_LT_LAYOUT,
    LongTailedData,
    load_cifar100_lt,
    load_digits,
    load_features,
    load_imagenet_lt,
)
from .recipes import LOSS_NAMES, RECIPES, Recipe
from .results import Result, read_result, write_result
from .training import (
    GROUPS,
    accuracies,
    groups_of_classes,
    loss_and_classifier,
    predict,
    train,
)

DATA = [name for name in RECIPES if name != "features"]
DEFAULT_LOSSES = ["softmax_ce", "softmax_eql", "seesaw"]
COLUMNS = ("overall", *GROUPS)


def parse_args(
    arguments: Sequence[str] | None = None,
    parser_class: type[argparse.ArgumentParser] = argparse.ArgumentParser,
) -> argparse.Namespace:
    description, _, rest = __doc__.strip().partition("\n")
    parser = parser_class(
        prog="python -m eql_seesaw.classification",
        description=description,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", choices=DATA, help="default: digits")
    parser.add_argument("--root", metavar="FOLDER", help="where the data is; not for digits")
    parser.add_argument(
        "--features",
        nargs=2,
        metavar=("TRAIN", "TEST"),
        help="instead of --data: two files of numpy.savez with the arrays features (N, D) and "
        "labels (N,), which a classifier alone is trained on",
    )
    parser.add_argument(
        "--loss",
        nargs="+",
        default=DEFAULT_LOSSES,
        metavar="NAME[,ARGUMENT=VALUE...]",
        help=f"of {', '.join(LOSS_NAMES)}; with other arguments than the recipe's, "
        "classifier=linear or classifier=normed (normalised) and its temperature among them "
        f"(default: {' '.join(DEFAULT_LOSSES)})",
    )
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
    parser.add_argument(
        "--learning-rate", type=float, help="default: the recipe's, scaled to the batch size"
    )
    parser.add_argument("--workers", type=int, help="processes that load images")
    parser.add_argument(
        "--bfloat16", action="store_true", help="compute in bfloat16, which is faster on GPUs"
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="write each result to FOLDER/LOSS/seed_N.json; what is there is not trained again",
    )
    return parser.parse_args(arguments)


def check_args(args: argparse.Namespace) -> None:
    """Raises ValueError where the options do not fit each other."""
    data = recipe_name(args)
    if data == "features":
        for option in ("data", "root", "imbalance"):
            if getattr(args, option) is not None:
                raise ValueError(f"--{option} does not go with --features")
    elif data == "digits":
        if args.root is not None:
            raise ValueError("--root is for other --data; the digits come with scikit-learn")
    elif args.root is None:
        layout = CIFAR_LAYOUT if data == "cifar100-lt" else IMAGENET_LT_LAYOUT
        raise ValueError(f"--data {data} needs --root, the folder that holds {layout}")
    if data.startswith("imagenet-lt") and args.imbalance is not None:
        raise ValueError("--imbalance is for other --data; ImageNet-LT is long-tailed as it is")
    for option, lowest in (("iterations", 1), ("batch_size", 1), ("workers", 0)):
        value = getattr(args, option)
        if value is not None and value < lowest:
            name = option.replace("_", "-")
            raise ValueError(f"--{name} must be at least {lowest}, got {value}")
    if args.learning_rate is not None and not args.learning_rate > 0:
        raise ValueError(f"--learning-rate must be above 0, got {args.learning_rate:g}")
    for option in ("loss", "seed"):
        values = getattr(args, option)
        for value in values:
            if values.count(value) > 1:
                raise ValueError(f"--{option} has {value} twice")


def recipe_name(args: argparse.Namespace) -> str:
    """Key of RECIPES."""
    return "features" if args.features else args.data or "digits"


def recipe_for(args: argparse.Namespace) -> Recipe:
    """The recipe of the data set, with the changes that the options make."""
    recipe = replace(RECIPES[recipe_name(args)], bfloat16=args.bfloat16)
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
    if args.learning_rate is not None:
        recipe = replace(recipe, learning_rate=args.learning_rate)
    if args.workers is not None:
        recipe = replace(recipe, num_workers=args.workers)
    return recipe


def load(args: argparse.Namespace, seed: int) -> LongTailedData:
    """The data; its long tail is drawn anew for each seed, where it is drawn."""
    generator = torch.Generator().manual_seed(seed)
    if args.features:
        return load_features(*args.features)
    if args.data == "cifar100-lt":
        return load_cifar100_lt(args.root, args.imbalance, generator)
    if args.data in (None, "digits"):
        return load_digits(50.0 if args.imbalance is None else args.imbalance, generator)
    return load_imagenet_lt(args.root)


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


def mean_and_deviation(values: Sequence[float | None], sign: str = "") -> str:
    """Mean, and standard deviation where there are several; "n/a" where there is a None."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "n/a"
    mean = f"{statistics.mean(known):{sign}.1f}"
    return f"{mean} ± {statistics.stdev(known):.1f}" if len(known) > 1 else mean


def table(results: dict[str, list[Result]]) -> str:
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


def run(args: argparse.Namespace) -> None:
    check_args(args)
    recipe = recipe_for(args)
    results: dict[str, list[Result]] = {loss: [] for loss in args.loss}
    for seed in args.seed:
        data = load(args, seed)
        if args.features:
            recipe = replace(recipe, num_features=data.test[0][0].shape[0])
        groups = groups_of_classes(data.image_counts, recipe.group_bounds)
        if seed == args.seed[0]:
            for loss in results:  # mistakes in the last one are found before the first is trained
                loss_and_classifier(loss, recipe, data.image_counts)
            print(describe(data, groups, recipe), flush=True)
        for loss in results:
            result = read_result(args, recipe, loss, seed)
            if result is None:
                model = train(data, loss, recipe, seed)
                result = accuracies(*predict(model, data.test, recipe), groups)
                write_result(args, recipe, loss, seed, result)
            results[loss].append(result)
            numbers = ", ".join(f"{c} {result[c]:.1f}" for c in COLUMNS if result[c] is not None)
            print(f"{loss}, seed {seed}: {numbers}", flush=True)
    n = len(args.seed)
    print(f"\nTop-1 accuracy (%){f', mean ± standard deviation over {n} seeds' if n > 1 else ''}")
    print(table(results))
    if n > 1 and len(results) > 1:
        print(
            f"\nDifference from {args.loss[0]} of the same seed, and in how many of the {n} seeds "
            "it is above 0"
        )
        print(table_of_differences(results))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line. What is wrong with options or data ends it with one line and status 1."""
    args = parse_args(arguments)
    # cuDNN's fastest algorithms do not give the same numbers twice.
    torch.backends.cudnn.deterministic = True
    with one_line_errors():
        run(args)


if __name__ == "__main__":
    main()
