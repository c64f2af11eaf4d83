"""
Calibrate classifiers that were trained on features after their training, and print what that gives
beside the classifiers as they are. The strength is chosen on the validation set, with other seeds.

    python -m benchmarks.calibrated_features TRAIN VAL TEST

TRAIN, VAL and TEST are files as of `python -m eql_seesaw.classification --features`.
"""

import argparse
import statistics
from collections import defaultdict
from dataclasses import replace

import torch

from eql_seesaw.classification.datasets import LongTailedData, load_features
from eql_seesaw.classification.recipes import RECIPES, Recipe
from eql_seesaw.classification.results import table, table_of_differences
from eql_seesaw.classification.training import (
    accuracies,
    groups_of_classes,
    loss_and_classifier,
    train,
)
from eql_seesaw.data.class_statistics import ClassStatistics
from eql_seesaw.modeling.calibration import Calibration

METHODS = ("logit_adjustment", "tau_norm")
STRENGTHS = [i / 4 for i in range(9)]
CHOOSING_SEEDS, SEEDS = range(100, 103), range(10)


def calibrated_accuracies(
    data: LongTailedData, seed: int, recipe: Recipe
) -> dict[tuple[str, float], dict[str, float | None]]:
    """Accuracies of one training with softmax CE, by calibration and strength; 0 is without."""
    counts = torch.tensor(data.image_counts).numpy()
    class_statistics = ClassStatistics(counts, counts, sum(data.image_counts))
    loss, _ = loss_and_classifier("softmax_ce", recipe, data.image_counts)
    backbone, classifier = train(data, "softmax_ce", recipe, seed).cpu()
    features, true = data.test.tensors
    groups = groups_of_classes(data.image_counts, recipe.group_bounds)
    results = {}
    with torch.no_grad():
        logits = classifier(backbone(features))
        for method in METHODS:
            for strength in STRENGTHS:
                calibration = Calibration(method, loss, strength, class_statistics)
                probabilities = calibration(logits, classifier)
                best = probabilities.argsort(dim=1, descending=True)[:, :5]
                results[method, strength] = accuracies(best, true, groups)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("train", "val", "test"):
        parser.add_argument(name)
    args = parser.parse_args()
    recipe = RECIPES["features"]

    data = load_features(args.train, args.val)
    recipe = replace(recipe, num_features=data.test.tensors[0].shape[1])
    runs = [calibrated_accuracies(data, seed, recipe) for seed in CHOOSING_SEEDS]
    chosen = {}
    for method in METHODS:
        means = {x: statistics.mean(run[method, x]["overall"] for run in runs) for x in STRENGTHS}
        chosen[method] = max(STRENGTHS, key=lambda x: means[x])
        print(method, ", ".join(f"{x:g}: {mean:.1f}" for x, mean in means.items()), flush=True)

    data = load_features(args.train, args.test)
    results = defaultdict(list)
    for seed in SEEDS:
        run = calibrated_accuracies(data, seed, recipe)
        results["softmax_ce"].append(run["tau_norm", 0.0])
        for method, strength in chosen.items():
            results[f"{method} {strength:g}"].append(run[method, strength])
    print(f"\n{table(results)}\n\nDifferences\n{table_of_differences(results)}")


if __name__ == "__main__":
    main()
