import json
from pathlib import Path

import pytest

from eql_seesaw.tables.run_state import read_run_state
from tests.tables.conftest import finish, runs_of


@pytest.fixture
def run(project):
    return runs_of("big")["ce", 1]


def write_metrics(run, *lines):
    Path(run.folder, "metrics.json").write_text("".join(f"{line}\n" for line in lines))


def test_not_run(run):
    state = read_run_state(run)
    assert (state.metrics, state.reason, state.conflict) == (None, "not run", False)


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
        (("MODEL.WEIGHTS", "coco.pkl"), "MODEL.WEIGHTS"),
        (("TEST.DETECTIONS_PER_IMAGE", 10), "DETECTIONS_PER_IMAGE"),
    ],
)
def test_another_config_is_no_result(run, changes, key):
    finish(run, changes=changes, bbox_AP=21.5)
    state = read_run_state(run)
    assert state.metrics is None and state.conflict and key in state.reason


def test_keys_that_change_no_number_are_free(run):
    changes = ["MODEL.DEVICE", "cuda", "OUTPUT_DIR", "elsewhere", "DATALOADER.NUM_WORKERS", 9]
    changes += ["TEST.FIXED_AP", True, "TEST.EVAL_PERIOD", 7]
    finish(run, changes=changes, bbox_AP=21.5)
    assert read_run_state(run).metrics


def test_no_other_batch_in_miniature(project):
    run = runs_of("small")["ce", 1]
    finish(run, batch=2, bbox_AP=21.5)
    assert "SOLVER." in read_run_state(run).reason


def test_weights_may_lie_elsewhere_but_an_input_is_of_the_right_run(project):
    run = runs_of("small")["retrain", 1]
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
