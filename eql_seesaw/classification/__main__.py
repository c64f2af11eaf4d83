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
from collections.abc import Sequence
from dataclasses import replace

import torch

from ..command_line import one_line_errors
from .datasets import (
    LAYOUTS,
    LongTailedData,
    load_cifar100_lt,
    load_digits,
    load_features,
    load_imagenet_lt,
)
from .recipes import LOSS_NAMES, RECIPES, Recipe
from .results import COLUMNS, Result, read_result, table, table_of_differences, write_result
from .training import accuracies, groups_of_classes, loss_and_classifier, predict, train

DATA = [name for name in RECIPES if name != "features"]
DEFAULT_LOSSES = ["softmax_ce", "softmax_eql", "seesaw"]


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    description, _, rest = __doc__.strip().partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m eql_seesaw.classification",
        description=description,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data", choices=DATA, default="digits", help="default: digits")
    source.add_argument(
        "--features",
        nargs=2,
        metavar=("TRAIN", "TEST"),
        help="instead of --data: two files of numpy.savez with the arrays features (N, D) and "
        "labels (N,), which a classifier alone is trained on",
    )
    parser.add_argument("--root", metavar="FOLDER", help="where the data is; not for digits")
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
    args = parser.parse_args(arguments)
    args.seed = list(dict.fromkeys(args.seed))  # each counts once
    return args


def recipe_for(args: argparse.Namespace) -> Recipe:
    """
    The recipe of the data set, with the changes that the options make.

    Raises:
        ValueError: an option is too small to train with.
    """
    limits = {"iterations": 0, "batch_size": 0, "learning_rate": 0, "workers": -1}
    for option, limit in limits.items():
        value = getattr(args, option)
        if value is not None and not value > limit:
            raise ValueError(f"--{option.replace('_', '-')} must be above {limit}, got {value}")
    recipe = RECIPES["features" if args.features else args.data]
    # None of these is 0.
    batch_size = args.batch_size or recipe.batch_size
    scale = batch_size / recipe.batch_size
    return replace(
        recipe,
        iterations=args.iterations or max(round(recipe.iterations / scale), 1),
        batch_size=batch_size,
        learning_rate=args.learning_rate or recipe.learning_rate * scale,
        num_workers=recipe.num_workers if args.workers is None else args.workers,
        bfloat16=args.bfloat16,
    )


def load(args: argparse.Namespace, seed: int) -> LongTailedData:
    """
    The data; its long tail is drawn anew for each seed, where it is drawn.

    Raises:
        ValueError: --root is missing, or --imbalance is for other data; others, and
            FileNotFoundError, as of the functions that load the data.
    """
    generator = torch.Generator().manual_seed(seed)
    if args.data == "digits" and not args.features:
        return load_digits(50.0 if args.imbalance is None else args.imbalance, generator)
    if args.imbalance is not None and (args.features or args.data != "cifar100-lt"):
        raise ValueError("--imbalance is for digits and cifar100-lt; other data are as they are")
    if args.features:
        return load_features(*args.features)
    is_cifar = args.data == "cifar100-lt"
    if args.root is None:
        layout = LAYOUTS["cifar100-lt" if is_cifar else "imagenet-lt"]
        raise ValueError(f"--data {args.data} needs --root, the folder that holds {layout}")
    if is_cifar:
        return load_cifar100_lt(args.root, args.imbalance, generator)
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


def run(args: argparse.Namespace) -> None:
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
