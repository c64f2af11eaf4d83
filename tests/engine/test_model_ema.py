"""The average of the weights (MODEL_EMA), as users type it."""

import json

import pytest
import torch

from tests.engine.conftest import ROOT, first_difference, killed_copy
from tests.ranks import train_net_on_ranks

CONFIG = "quickstart/seesaw.yaml"
DECAY = 0.75
AVERAGED = ["MODEL_EMA.ENABLED", "True", "MODEL_EMA.DECAY", str(DECAY)]
# Strong enough that weights and their average are far apart.
RUN = ["SEED", "1", "SOLVER.BASE_LR", "0.01", "SOLVER.WARMUP_ITERS", "0", "SOLVER.STEPS", "()"]
NO_EVALUATION = ["DATASETS.TEST", "()"]
# float64 sums and int64 counts.
STATISTICS = {"eql_v2": "positive_gradients", "seesaw": "cumulative_counts"}


def load(folder, name="model_final.pth"):
    return torch.load(folder / name, weights_only=True)


def trained(checkpoint):
    return checkpoint["trainer"]["hooks"]["ModelEMA"]["trained"]


@pytest.mark.parametrize("loss", STATISTICS)
def test_checkpoints_hold_the_average_and_the_trained_weights(train_net, overrides, tmp_path, loss):
    """By the formula, from the weights after each step; statistics of losses are not averaged."""
    run = [*overrides, *RUN, *NO_EVALUATION, "MODEL.ROI_BOX_HEAD.CLS_LOSS", loss]
    run += ["SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "1"]
    assert train_net(CONFIG, *run) is None
    assert train_net(CONFIG, *run, *AVERAGED, "OUTPUT_DIR", str(tmp_path / "averaged")) is None
    average = {}
    for iteration in range(4):
        name = f"model_{iteration:07d}.pth" if iteration < 3 else "model_final.pth"
        alone, beside = load(tmp_path / "output", name), load(tmp_path / "averaged", name)
        weights = trained(beside)
        # Training does not know of the average.
        assert not first_difference({k: alone["model"][k] for k in weights}, weights)
        for key, weight in weights.items():
            before = average.get(key, weight.double())
            average[key] = DECAY * before + (1 - DECAY) * weight.double()
            torch.testing.assert_close(beside["model"][key].double(), average[key])
        buffers = [key for key in alone["model"] if key not in weights]
        assert f"roi_heads.box_predictor.loss.{STATISTICS[loss]}" in buffers
        assert all(alone["model"][key].equal(beside["model"][key]) for key in buffers)
    key = "roi_heads.box_head.fc1.weight"
    assert (average[key] - weights[key]).abs().max() > 1e-4


@pytest.mark.slow
def test_killed_run_is_resumed_exactly(train_net, overrides, tmp_path):
    run = [*overrides, *RUN, *AVERAGED, "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2"]
    run += ["TEST.EVAL_PERIOD", "2", "TEST.BEST_METRIC", ""]
    assert train_net(CONFIG, *run) is None
    killed = killed_copy(tmp_path / "output")
    (killed / "metrics.json").write_text("")  # in the evaluation that follows the checkpoint
    assert train_net(CONFIG, "--resume", *run, "OUTPUT_DIR", str(killed)) is None
    assert not first_difference(load(tmp_path / "output"), load(killed))
    assert results(killed) == results(tmp_path / "output")


def results(folder):
    path = folder / "inference" / "symbols_val" / "lvis_instances_results.json"
    return json.loads(path.read_text())


def test_evaluations_are_of_the_average(train_net, overrides, tmp_path):
    """And those of its checkpoint, which need no key."""
    run = [*overrides, *RUN, "SOLVER.MAX_ITER", "2"]
    output = tmp_path / "output"
    assert train_net(CONFIG, *run, *AVERAGED) is None
    last = results(output)
    weights = ["MODEL.WEIGHTS", str(output / "model_final.pth")]
    alone = [*run, *weights, "OUTPUT_DIR", str(tmp_path / "alone")]
    assert train_net(CONFIG, "--eval-only", *alone) is None
    assert results(tmp_path / "alone") == last
    # Not of the trained weights.
    checkpoint = load(output)
    checkpoint["model"].update(trained(checkpoint))
    torch.save(checkpoint, output / "model_final.pth")
    assert train_net(CONFIG, "--eval-only", *alone) is None
    assert results(tmp_path / "alone") != last


def test_training_starts_with_the_weights_that_are_given(train_net, overrides, tmp_path):
    """And goes on with those of a run without an average, or with another loss."""
    still = [*overrides, *RUN, *NO_EVALUATION, "SOLVER.BASE_LR", "0.0"]
    assert train_net(CONFIG, *still) is None
    output, second = tmp_path / "output", tmp_path / "second"
    expected = load(output)["model"]
    start = ["MODEL.WEIGHTS", str(output / "model_final.pth"), "OUTPUT_DIR", str(second)]
    assert train_net(CONFIG, *still, *start, *AVERAGED) is None
    more = ["SOLVER.MAX_ITER", "4"]
    assert train_net(CONFIG, "--resume", *still, *more, *AVERAGED) is None
    for checkpoint in (load(second), load(output)):
        assert trained(checkpoint).keys() < expected.keys()
        for key, weight in trained(checkpoint).items():
            assert weight.equal(expected[key]) and weight.equal(checkpoint["model"][key])
    changed = ["SOLVER.MAX_ITER", "5", "SOLVER.RESUME_CHANGED", "True"]
    assert train_net("quickstart/eql.yaml", "--resume", *still, *changed, *AVERAGED) is None
    checkpoint = load(output)
    for key, weight in trained(checkpoint).items():
        # The classifier is of another shape, and new.
        assert weight.equal(checkpoint["model"][key])
        assert ".cls_score." in key or weight.equal(expected[key])


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="these are processes without a GPU")
def test_average_is_the_same_on_all_ranks(train_net, overrides, tmp_path):
    """Each rank evaluates its own on its images; the model of rank 0 alone gives as much."""
    run = [*overrides, *RUN, "SOLVER.MAX_ITER", "2"]
    config = ["--config-file", str(ROOT / "configs" / CONFIG)]
    train_net_on_ranks(tmp_path, *config, *run, *AVERAGED)
    weights = ["MODEL.WEIGHTS", str(tmp_path / "output" / "model_final.pth")]
    alone = tmp_path / "alone"
    assert train_net(CONFIG, "--eval-only", *run, *weights, "OUTPUT_DIR", str(alone)) is None
    assert results(alone) == results(tmp_path / "output")
