from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.calibrated_features import calibrated_accuracies
from benchmarks.lvis_like_training_set import lvis_like_training
from eql_seesaw.classification.datasets import load_features
from eql_seesaw.classification.recipes import RECIPES
from eql_seesaw.classification.training import accuracies, groups_of_classes, predict, train
from eql_seesaw.data.annotated_images import read_annotated_images
from tests.classification.folders import write_features
from tests.ranks import Script


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        "losses",
        "mask_head",
        "box_predictor",
        "post_processing",
        "lvis_results",
        "class_statistics",
        "first_batch",
        "lvis_evaluation",
    ],
)
def test_script(tmp_path, script):
    """It compares ours with its peer at a tiny size, and prints a table of ratios."""
    log = tmp_path / "log.txt"
    status = Script(f"benchmarks.{script}", "--quick", log=log).wait(300)
    assert status == 0, log.read_text()
    header, _, *rows = [line for line in log.read_text().splitlines() if line.startswith("|")]
    assert "time ratio" in header and rows
    for line in rows:
        ratio = line.split("|")[6].split("(")[0]
        assert float(ratio) > 0


def test_lvis_like_training_set(tmp_path):
    training_set = lvis_like_training(tmp_path, num_images=300)
    dataset = read_annotated_images(*training_set)
    assert len(dataset) == 300
    annotations = len(dataset.columns.classes)
    assert annotations == pytest.approx(300 * 1_270_141 / 100_170, rel=0.5)
    assert Path(dataset[0]["file_name"]).is_file()


def test_calibrated_features(tmp_path):
    """Without strength the classifier as it is; with it, rare classes are named more often."""
    data = load_features(*write_features(tmp_path, [150, 30, 5], dimension=4))
    recipe = replace(RECIPES["features"], num_features=4, iterations=30)
    results = calibrated_accuracies(data, 0, recipe)
    model = train(data, "softmax_ce", recipe, 0)
    groups = groups_of_classes(data.image_counts, recipe.group_bounds)
    plain = accuracies(*predict(model, data.test, recipe), groups)
    assert results["logit_adjustment", 0.0] == results["tau_norm", 0.0] == plain
    assert results["logit_adjustment", 2.0]["few"] > plain["few"]
