import json
import math
import os
from pathlib import Path

import pytest

from eql_seesaw.tables.run_state import read_run_state
from tests.tables.conftest import finish, finish_inputs, runs_of


@pytest.fixture
def run(project):
    return runs_of("big")["ce", 1]


def write_metrics(run, *lines):
    Path(run.folder, "metrics.json").write_text("".join(f"{line}\n" for line in lines))


def test_not_run(run):
    state = read_run_state(run)
    assert (state.metrics, state.reason, state.conflict) == (None, "not run", False)


@pytest.mark.parametrize("name", ["last_checkpoint", "metrics.json"])
def test_training_of_an_unknown_config_is_not_continued(run, name):
    os.makedirs(run.folder)
    Path(run.folder, name).touch()
    state = read_run_state(run)
    assert state.conflict and state.reason.endswith(f"{name}, but no config.yaml")


def test_finished_with_the_recipes_batch_and_with_another(run):
    for batch in (None, 2, 16):
        finish(run, batch, segm_AP=20.5)
        # bbox/AP is what says that there was an evaluation.
        assert "not evaluated" in read_run_state(run).reason
        finish(run, batch, segm_AP=20.5, bbox_AP=21.5)
        state = read_run_state(run)
        assert state.metrics["segm/AP"] == 20.5 and not state.reason
        assert state.batch == (batch or 8)


@pytest.mark.parametrize(
    "changes, key",
    [
        (("MODEL.ROI_BOX_HEAD.CLS_LOSS", "eql"), "CLS_LOSS: eql there, softmax_ce expected"),
        (("SOLVER.IMS_PER_BATCH", 4), "SOLVER.BASE_LR: 0.02 there, 0.01 expected"),
        (("SOLVER.STEPS", (50, 80)), "SOLVER.STEPS"),
        (("SEED", 2), "SEED: 2 there, 1 expected"),
        (("MODEL.WEIGHTS", "coco.pkl"), "MODEL.WEIGHTS: coco.pkl there,  expected"),
        (("DATASETS.CLASS_STATISTICS", "mine.json"), "DATASETS.CLASS_STATISTICS"),
        (("TEST.DETECTIONS_PER_IMAGE", 10), "DETECTIONS_PER_IMAGE"),
        # Seesaw counts pass by pass; skipped images are other training images.
        (("SOLVER.ACCUMULATION_STEPS", 2), "SOLVER.ACCUMULATION_STEPS: 2 there, 1 expected"),
        (("DATALOADER.UNREADABLE_IMAGES", "skip"), "UNREADABLE_IMAGES: skip there, stop expected"),
    ],
)
def test_another_config_is_no_result(run, changes, key):
    finish(run, changes=changes, bbox_AP=21.5)
    state = read_run_state(run)
    assert state.metrics is None and state.conflict and key in state.reason


def test_keys_that_change_no_number_are_free(run):
    changes = ["MODEL.DEVICE", "cuda", "OUTPUT_DIR", "elsewhere", "DATALOADER.NUM_WORKERS", 9]
    changes += ["TEST.FIXED_AP", True, "TEST.EVAL_PERIOD", 7]
    changes += ["MODEL.ROI_BOX_HEAD.GRADIENT_STATISTICS", True]
    finish(run, changes=changes, bbox_AP=21.5)
    assert read_run_state(run).metrics


def test_no_other_batch_in_miniature(project):
    run = runs_of("small")["ce", 1]
    finish(run, batch=2, bbox_AP=21.5)
    assert "SOLVER." in read_run_state(run).reason


def start_with(run, weights):
    config = Path(run.row.config)
    config.write_text(config.read_text() + f"MODEL: {{WEIGHTS: '{weights}'}}\n")


def test_downloaded_weights_may_lie_elsewhere(run):
    start_with(run, "detectron2://ImageNetPretrained/MSRA/R-50.pkl")
    finish(run, changes=("MODEL.WEIGHTS", "/disk/R-50.pkl"), bbox_AP=21.5)
    assert read_run_state(run).metrics
    finish(run, changes=("MODEL.WEIGHTS", "/disk/R-101.pkl"), bbox_AP=21.5)
    assert "MODEL.WEIGHTS" in read_run_state(run).reason


def test_weights_of_a_training_are_known_by_more_than_their_name(run):
    start_with(run, "mine/model_final.pth")
    finish(run, changes=("MODEL.WEIGHTS", "/x/model_final.pth"), bbox_AP=21.5)
    assert "MODEL.WEIGHTS: /x/model_final.pth there" in read_run_state(run).reason


def test_start_of_the_miniature_is_known_by_its_run(project):
    run = runs_of("big", "mini")["ce", 1]
    finish_inputs(run)
    finish(run, bbox_AP=1.0)
    assert read_run_state(run).metrics
    for wrong in ("/x/model_final.pth", "output/tables/mini/other/pretrain/seed_1/model_final.pth"):
        finish(run, changes=("MODEL.WEIGHTS", wrong), bbox_AP=1.0)
        assert f"MODEL.WEIGHTS: {wrong} there" in read_run_state(run).reason


def test_input_that_may_be_shown_as_measured(project):
    """Else what was trained from it may not either."""
    runs = runs_of("small")
    run, source = runs["retrain", 1], runs["ce", 1]
    finish(run, bbox_AP=1.0)
    state = read_run_state(run)
    assert state.metrics is None and state.conflict
    assert state.reason == "its input small/ce seed 1: not run"
    finish(source, bbox_AP=1.0)
    assert read_run_state(run).metrics
    write_metrics(source, '{"iteration": 49, "bbox/AP": 1.0}')
    assert read_run_state(run).reason == "its input small/ce seed 1: at iteration 50 of 100"
    finish(source, changes=("SEED", 9), bbox_AP=1.0)
    assert "its input small/ce seed 1: its config differs in SEED" in read_run_state(run).reason


def test_input_that_has_moved_is_of_the_right_run(project):
    run = runs_of("small")["retrain", 1]
    finish_inputs(run)
    moved = "/disk/tables/mini/small/softmax_ce/seed_1/model_final.pth"
    finish(run, changes=("MODEL.WEIGHTS", moved), bbox_AP=1.0)
    assert read_run_state(run).metrics
    finish(run, changes=("MODEL.WEIGHTS", moved.replace("seed_1", "seed_2")), bbox_AP=1.0)
    assert "MODEL.WEIGHTS" in read_run_state(run).reason


def test_unfinished(run):
    finish(run, bbox_AP=21.5)
    old = json.dumps({"iteration": 100, "bbox/AP": 21.5})
    cases = {
        (): "does not end with a line of metrics",
        ('{"iteration": 49, "bbox/AP": 1.0}',): "at iteration 50 of 100",
        ('{"iteration": 99}',): "at iteration 100 of 100, not evaluated",
        # Started again in the same folder: the old evaluation is not this run's.
        (old, '{"iteration": 19}'): "at iteration 20 of 100",
        (old, '{"iterat'): "does not end with a line of metrics",
        ('{"iteration": 900, "bbox/AP": 1.0}',): "beyond SOLVER.MAX_ITER 100",
    }
    for lines, reason in cases.items():
        write_metrics(run, *lines)
        state = read_run_state(run)
        assert state.metrics is None and reason in state.reason and not state.conflict
    Path(run.folder, "metrics.json").unlink()
    assert "at iteration 0 of 100" in read_run_state(run).reason


def test_evaluated_after_it_was_resumed(run):
    """Detectron2 counts one iteration more then."""
    finish(run, bbox_AP=21.5)
    write_metrics(run, '{"iteration": 99}', '{"iteration": 101, "bbox/AP": 21.5}')
    assert read_run_state(run).metrics["bbox/AP"] == 21.5


def test_unknown_number(run):
    finish(run, bbox_AP=21.5)
    write_metrics(run, '{"iteration": 100, "bbox/AP": 21.5, "segm/AP": null}')
    metrics = read_run_state(run).metrics
    assert metrics["bbox/AP"] == 21.5 and math.isnan(metrics["segm/AP"])


def test_line_that_a_kill_has_cut_off(run):
    """What is written after the run was resumed counts."""
    finish(run, bbox_AP=21.5)
    write_metrics(run, '{"iterat{"iteration": 19}', '{"iteration": 100, "bbox/AP": 21.5}')
    assert read_run_state(run).metrics["bbox/AP"] == 21.5


def test_broken_config_is_told(run):
    finish(run, bbox_AP=21.5)
    Path(run.folder, "config.yaml").write_text("SOLVER: [")
    state = read_run_state(run)
    assert state.metrics is None and state.conflict and "config.yaml" in state.reason


def test_first_of_several_test_sets_counts(run):
    text = Path(run.row.config).read_text()
    Path(run.row.config).write_text(
        text.replace("DATASETS:", "DATASETS:\n  TEST: [symbols_val, symbols_train]")
        + "TEST: {BEST_METRIC: ''}\n"
    )
    finish(run)
    line = {"iteration": 100, "symbols_val/bbox/AP": 3.0, "symbols_train/bbox/AP": 4.0}
    write_metrics(run, json.dumps(line))
    assert read_run_state(run).metrics["bbox/AP"] == 3.0
