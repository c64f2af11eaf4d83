"""Runs that go on, and steps of several passes, as users type them."""

import csv
import json
from operator import itemgetter

import pytest
import torch

from eql_seesaw.engine import LongTailTrainer
from tests.engine.conftest import first_difference, killed_copy

CONFIG = "quickstart/seesaw.yaml"
NO_EVALUATION = ["DATASETS.TEST", "()"]
COUNTS = "roi_heads.box_predictor.loss.cumulative_counts"


def load(output, name="model_final.pth"):
    return torch.load(output / name, weights_only=True)


def metrics(output):
    """Lines of metrics.json without what differs from run to run."""
    lines = [json.loads(line) for line in open(output / "metrics.json")]
    times = {"eta_seconds", "time", "data_time"}
    return [{key: value for key, value in line.items() if key not in times} for line in lines]


@pytest.fixture
def seen(monkeypatch):
    """The files of the images of every step."""
    files = []
    original = LongTailTrainer.build_model.__func__

    def build_model(cls, cfg):
        model = original(cls, cfg)
        model.register_forward_pre_hook(
            lambda _, inputs: files.append([image["file_name"] for image in inputs[0]])
        )
        return model

    monkeypatch.setattr(LongTailTrainer, "build_model", classmethod(build_model))
    return files


@pytest.mark.parametrize("seed", ["3", "-1"])
def test_resumed_run_draws_the_images_that_come_next(train_net, overrides, tmp_path, seen, seed):
    """With a random seed too: the checkpoint knows it."""
    run = [*overrides, *NO_EVALUATION, "SEED", seed, "SOLVER.CHECKPOINT_PERIOD", "2"]
    run += ["SOLVER.MAX_ITER", "5"]
    assert train_net(CONFIG, *run) is None
    whole = list(seen)
    assert len(whole) == 5 and len({file for batch in whole for file in batch}) == 10
    killed = killed_copy(tmp_path / "output")
    seen.clear()
    assert train_net(CONFIG, "--resume", *run, "OUTPUT_DIR", str(killed)) is None
    assert seen == whole[2:]


def test_other_batch_goes_on_after_the_images_seen(train_net, overrides, tmp_path, seen):
    run = [*overrides, *NO_EVALUATION, "SEED", "3", "DATALOADER.ASPECT_RATIO_GROUPING", "False"]
    assert train_net(CONFIG, *run, "SOLVER.MAX_ITER", "6") is None
    stream = [file for batch in seen for file in batch]
    seen.clear()
    first = [*run, "OUTPUT_DIR", str(tmp_path / "second")]
    assert train_net(CONFIG, *first, "SOLVER.MAX_ITER", "3") is None
    seen.clear()
    larger = ["SOLVER.IMS_PER_BATCH", "3", "SOLVER.MAX_ITER", "5"]
    assert train_net(CONFIG, "--resume", *first, *larger) is None
    assert [file for batch in seen for file in batch] == stream[6:]
    log = (tmp_path / "second" / "log.txt").read_text()
    assert "there and here: {'images_per_pass': (2, 3)}" in log
    assert load(tmp_path / "second")["trainer"]["images"] == 12


def test_passes_of_a_step(train_net, overrides, tmp_path, seen):
    """The images of a step are the same in any number of passes, and so is what is counted."""
    run = [*overrides, *NO_EVALUATION, "SOLVER.IMS_PER_BATCH", "4", "SOLVER.MAX_ITER", "1"]
    run += ["SOLVER.STEPS", "()", "DATALOADER.ASPECT_RATIO_GROUPING", "False"]
    steps = {}
    for passes in ("1", "2"):
        seen.clear()
        folder = ["OUTPUT_DIR", str(tmp_path / passes), "SOLVER.ACCUMULATION_STEPS", passes]
        assert train_net(CONFIG, *run, *folder) is None
        assert len(seen) == int(passes)
        steps[passes] = [file for batch in seen for file in batch]
    assert steps["1"] == steps["2"]
    log = (tmp_path / "2" / "log.txt").read_text()
    assert "a step is 4 images: 1 process(es) x 2 pass(es) x 2 image(s); learning rate" in log
    images_per_step = [load(tmp_path / passes)["trainer"]["images"] for passes in steps]
    assert images_per_step == [4, 4]
    # Proposals are drawn anew in each pass, but there are as many of them for each image.
    assert all(load(tmp_path / passes)["model"][COUNTS].sum() > 0 for passes in steps)


@pytest.mark.slow
@pytest.mark.parametrize("is_evaluated, loss", [(False, "pcb"), (True, "seesaw")])
def test_accumulating_run_is_resumed_exactly(train_net, overrides, tmp_path, is_evaluated, loss):
    """PCB, whose statistics decay, starts with the last of the four iterations."""
    run = [*overrides, "SEED", "1", "SOLVER.ACCUMULATION_STEPS", "2", "SOLVER.MAX_ITER", "4"]
    run += ["MODEL.ROI_BOX_HEAD.CLS_LOSS", loss]
    run += ["SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "2", "TEST.BEST_METRIC", ""]
    assert train_net(CONFIG, *run) is None
    killed = killed_copy(tmp_path / "output")
    if not is_evaluated:  # killed in the evaluation that follows the checkpoint
        (killed / "metrics.json").write_text("")
    assert train_net(CONFIG, "--resume", *run, "OUTPUT_DIR", str(killed)) is None
    assert not first_difference(load(tmp_path / "output"), load(killed))
    # Lines of so short a run are written at its end, later ones first.
    undisturbed, resumed = (
        sorted(metrics(folder), key=itemgetter("iteration"))
        for folder in (tmp_path / "output", killed)
    )
    assert undisturbed == resumed
    # What was evaluated at iteration 1 is there, though the resumed run began after it.
    assert "bbox/AP" in resumed[0]


def test_checkpoint_comes_before_each_evaluation(train_net, overrides, tmp_path):
    """So that one that is stopped costs no steps."""
    periods = ["SOLVER.CHECKPOINT_PERIOD", "4", "TEST.EVAL_PERIOD", "3", "SOLVER.MAX_ITER", "6"]
    assert train_net(CONFIG, *overrides, *periods) is None
    names = {path.name for path in (tmp_path / "output").glob("model_*.pth")}
    numbered = {"model_0000002.pth", "model_0000003.pth"}
    assert names == {*numbered, "model_final.pth", "model_best.pth"}


def test_config_file_is_that_of_the_run(train_net, overrides, tmp_path):
    """Not that of an evaluation with other keys, nor of a command that was refused."""
    run = [*overrides, *NO_EVALUATION]
    path = tmp_path / "output" / "config.yaml"
    assert train_net(CONFIG, *run) is None
    trained = path.read_text()
    other = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.5", "DATASETS.TEST", "('symbols_val',)"]
    assert train_net(CONFIG, "--eval-only", "--resume", *run, *other) is None
    assert path.read_text() == trained
    changed = [*run, "MODEL.ROI_BOX_HEAD.CLS_LOSS", "eql"]
    assert "RESUME_CHANGED" in train_net(CONFIG, "--resume", *changed)
    assert path.read_text() == trained
    assert train_net(CONFIG, "--resume", *changed, "SOLVER.RESUME_CHANGED", "True") is None
    assert "CLS_LOSS: eql" in path.read_text()


def test_learning_rate_goes_on_where_the_optimizer_starts_anew(train_net, overrides, tmp_path):
    run = [*overrides, *NO_EVALUATION, "SOLVER.WARMUP_ITERS", "2", "SOLVER.WARMUP_FACTOR", "0.001"]
    run += ["SOLVER.BASE_LR", "0.01", "SOLVER.STEPS", "(3,)"]
    assert train_net(CONFIG, *run, "SOLVER.MAX_ITER", "5") is None
    changed = ["SOLVER.RESUME_CHANGED", "True", "SOLVER.MAX_ITER", "6"]
    assert train_net("quickstart/eql.yaml", "--resume", *run, *changed) is None
    assert metrics(tmp_path / "output")[-1]["lr"] == pytest.approx(0.001)


def test_learning_rate_of_the_command_line_has_no_effect(train_net, overrides, tmp_path):
    run = [*overrides, *NO_EVALUATION, "SOLVER.BASE_LR", "0.01"]
    assert train_net(CONFIG, *run) is None
    more = ["SOLVER.BASE_LR", "0.5", "SOLVER.MAX_ITER", "4"]
    assert train_net(CONFIG, "--resume", *run, *more) is None
    assert metrics(tmp_path / "output")[-1]["lr"] <= 0.01
    log = (tmp_path / "output" / "log.txt").read_text()
    assert "goes on as it began, 0.01; SOLVER.BASE_LR, now 0.5, has no effect" in log


def test_finished_run_is_only_evaluated_again(train_net, overrides, tmp_path):
    assert train_net(CONFIG, *overrides) is None
    output = tmp_path / "output"
    before = metrics(output)
    assert "has checkpoints of an earlier run; give --resume" in train_net(CONFIG, *overrides)
    other = ["DATASETS.TRAIN", "('symbols_val',)"]
    assert "but here it is symbols_val" in train_net(CONFIG, "--resume", *overrides, *other)
    assert metrics(output) == before
    assert train_net(CONFIG, "--resume", *overrides) is None
    assert metrics(output) == before


def test_skipped_images(train_net, overrides, symbols, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for index, path in enumerate(sorted((symbols / "train").iterdir())):
        # Every other one is cut short.
        content = path.read_bytes()
        (images / path.name).write_bytes(content[: len(content) // 2] if index % 2 else content)
    run = [
        *overrides,
        *NO_EVALUATION,
        *("DATASETS.REGISTER.symbols_train.IMAGES", str(images)),
        *("DATALOADER.UNREADABLE_IMAGES", "skip", "DATALOADER.NUM_WORKERS", "2"),
        *("SEED", "1", "SOLVER.MAX_ITER", "4"),
    ]
    assert train_net(CONFIG, *run) is None
    output = tmp_path / "output"
    rows = list(csv.reader(open(output / "skipped_images.csv")))
    assert rows and all(str(images) in message for _, message in rows)
    log = (output / "log.txt").read_text()
    names = {message for _, message in rows}
    summary = f"skipped {len(rows)} times, {len(names)} training images that could not be read"
    assert summary in log and all(log.count(name) >= 2 for name in names)
    # A resumed run counts from its checkpoint on.
    late = [*rows, ["7", "image 1, of a step after the checkpoint"]]
    with open(output / "skipped_images.csv", "w", newline="") as f:
        csv.writer(f).writerows(late)
    assert train_net(CONFIG, "--resume", *run) is None
    assert list(csv.reader(open(output / "skipped_images.csv"))) == rows
