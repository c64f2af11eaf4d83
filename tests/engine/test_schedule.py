"""SOLVER.REFERENCE_IMS_PER_BATCH: the learning rate follows the batch."""

import logging

import pytest

from eql_seesaw.engine import load_config
from eql_seesaw.schedule import doubts
from tests.engine.conftest import ROOT

RECIPE = str(ROOT / "configs" / "lvis_v1" / "mask_rcnn_R_50_FPN_2x_seesaw.yaml")


def test_quarter_of_the_batch():
    recipe = load_config(RECIPE, []).SOLVER
    assert (recipe.IMS_PER_BATCH, recipe.BASE_LR) == (16, 0.02)
    small = ["SOLVER.IMS_PER_BATCH", "4", "SOLVER.REFERENCE_IMS_PER_BATCH", "16"]
    solver = load_config(RECIPE, small).SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR) == (4, 0.005)
    assert solver.MAX_ITER == 4 * recipe.MAX_ITER
    assert solver.STEPS == tuple(4 * step for step in recipe.STEPS)
    assert solver.WARMUP_ITERS == 4 * recipe.WARMUP_ITERS


def test_config_of_a_run_is_not_scaled_again(tmp_path):
    small = ["SOLVER.IMS_PER_BATCH", "8", "SOLVER.REFERENCE_IMS_PER_BATCH", "16"]
    cfg = load_config(RECIPE, small)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert load_config(str(tmp_path / "config.yaml"), []).SOLVER == cfg.SOLVER


def test_log_names_what_was_scaled(caplog):
    caplog.set_level(logging.INFO)
    recipe = load_config(RECIPE, [])
    assert "scaled" not in caplog.text
    load_config(RECIPE, ["SOLVER.IMS_PER_BATCH", "4", "SOLVER.REFERENCE_IMS_PER_BATCH", "16"])
    (text,) = [message for message in caplog.messages if message.startswith("scaled")]
    assert text.startswith("scaled from a batch of 16 to 4: SOLVER.BASE_LR 0.02 -> 0.005, ")
    steps = recipe.SOLVER.STEPS
    assert f"SOLVER.STEPS {steps} -> {tuple(4 * step for step in steps)}" in text
    assert "SOLVER.WARMUP_ITERS 500 -> 2000" in text


def test_doubts():
    assert doubts(load_config(RECIPE, [])) == []
    warm_up = ["SOLVER.WARMUP_ITERS", "1000", "SOLVER.MAX_ITER", "60", "SOLVER.STEPS", "(50,)"]
    cfg = load_config(RECIPE, [*warm_up, "MODEL.WEIGHTS", ""])
    first, second, third = doubts(cfg)
    assert "WARMUP_ITERS is 1000 and SOLVER.MAX_ITER 60" in first and "0.02" in first
    assert "FREEZE_AT 2" in second and "random weights" in second
    assert "FrozenBN" in third and "GN" in third
    quickstart = str(ROOT / "configs" / "quickstart" / "seesaw.yaml")
    assert doubts(load_config(quickstart, [])) == []


@pytest.mark.parametrize(
    "key, value, reason",
    [
        ("ACCUMULATION_STEPS", "0", "at least 1"),
        ("ACCUMULATION_STEPS", "3", "must divide"),
        ("REFERENCE_IMS_PER_BATCH", "-1", "at least 0"),
        ("MAX_CHECKPOINTS", "-1", "at least 0"),
        ("CHECKPOINT_PERIOD", "0", "at least 1"),
        ("IMS_PER_BATCH", "0", "at least 1"),
    ],
)
def test_wrong_values(key, value, reason):
    with pytest.raises(ValueError, match=f"SOLVER.{key}.*{reason}"):
        load_config(RECIPE, [f"SOLVER.{key}", value])
