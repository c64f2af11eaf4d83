"""SOLVER.AMP in bfloat16 on CPUs, as users type it."""

import math

import pytest

from tests.engine.conftest import ROOT, first_difference, killed_copy
from tests.engine.test_resume import CONFIG, load, metrics
from tests.ranks import train_net_on_ranks

BFLOAT16 = ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.PRECISION", "bfloat16", "SEED", "1"]


def losses_of_steps(output):
    lines = [line for line in metrics(output) if "total_loss" in line]
    losses = [value for line in lines for name, value in line.items() if "loss" in name]
    assert losses and all(map(math.isfinite, losses))
    return lines


def test_training_is_in_bfloat16_and_evaluation_in_float32(train_net, overrides, tmp_path):
    float32 = [*overrides, "SEED", "1", "OUTPUT_DIR", str(tmp_path / "float32")]
    assert train_net(CONFIG, *float32, "DATASETS.TEST", "()") is None
    assert train_net(CONFIG, *overrides, *BFLOAT16) is None
    output = tmp_path / "output"
    (line,), (expected,) = losses_of_steps(output), losses_of_steps(tmp_path / "float32")
    assert line["total_loss"] != expected["total_loss"]
    assert line["total_loss"] == pytest.approx(expected["total_loss"], rel=0.02)
    assert "iterations, bfloat16 where autocast allows" in (output / "log.txt").read_text()
    assert "grad_scaler" not in load(output)["trainer"]["_trainer"]
    results = output / "inference" / "symbols_val" / "lvis_instances_results.json"
    trained = results.read_bytes()
    assert train_net(CONFIG, "--eval-only", "--resume", *overrides) is None
    assert results.read_bytes() == trained


@pytest.mark.slow
def test_two_processes_are_resumed_exactly(overrides, tmp_path):
    run = [*overrides, *BFLOAT16, "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2"]
    run += ["MODEL.ROI_BOX_HEAD.GRADIENT_STATISTICS", "True", "SOLVER.ACCUMULATION_STEPS", "2"]
    run += ["SOLVER.IMS_PER_BATCH", "4", "DATASETS.TEST", "()"]

    def train(output, *options):
        command = ["--config-file", str(ROOT / "configs" / CONFIG), *options, *run]
        train_net_on_ranks(tmp_path, *command, "OUTPUT_DIR", output)

    whole = tmp_path / "whole"
    train(whole)
    killed = killed_copy(whole)
    train(killed, "--resume")
    assert not first_difference(load(whole), load(killed))
    assert losses_of_steps(whole) == losses_of_steps(killed)
