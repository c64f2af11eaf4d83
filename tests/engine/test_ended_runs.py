"""Runs that are killed or stopped, and resumed, leave what one leaves that was left alone."""

import json
from signal import SIGKILL

import pytest
import torch

from eql_seesaw.engine.stop_signals import STOPPED
from tests.engine.conftest import ROOT, as_arguments, first_difference, small_run
from tests.ranks import Script

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="these are processes without a GPU"),
]


def train(symbols, folder, ending, num_ranks):
    settings = {
        **small_run(symbols, "output"),
        "SOLVER.MAX_ITER": 9,
        "SOLVER.CHECKPOINT_PERIOD": 3,
        "TEST.EVAL_PERIOD": 6,
        "DATALOADER.NUM_WORKERS": 1,
        "SEED": 1,
    }
    options = ["--config-file", ROOT / "configs/quickstart/seesaw.yaml", "--num-gpus", num_ranks]
    words = [ending, *options, "--resume", *as_arguments(settings)]
    log = folder / "terminal.txt"
    return Script("tests/engine/ended_main.py", *words, log=log, folder=folder).wait(300)


def read(path):
    """Content of a file, without the date in evaluation.json."""
    if path.suffix == ".pth":
        return torch.load(path, weights_only=True)
    if path.name == "metrics.json":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix in (".json", ".csv", ".yaml"):
        return [line for line in path.read_text().splitlines() if '"date": ' not in line]
    return path.read_bytes()


def contents(folder):
    return {
        str(path.relative_to(folder)): read(path)
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(("log.txt", "events.out"))
    }


ENDINGS = {
    "killed_in_a_step": -SIGKILL,
    "killed_in_a_checkpoint": -SIGKILL,
    "stopped_in_an_evaluation": STOPPED,
    "stopped_in_a_step": STOPPED,
}


@pytest.mark.parametrize("num_ranks, endings", [(1, list(ENDINGS)), (2, ["stopped_in_a_step"])])
def test_not_a_bit_differs(symbols, tmp_path, num_ranks, endings):
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    for folder in (whole, ended):
        folder.mkdir()
    assert train(symbols, whole, "left_alone", num_ranks) == 0
    for ending in endings:
        assert train(symbols, ended, ending, num_ranks) == ENDINGS[ending]
    (ended / "output" / "model_0000007.pth").unlink()  # the other was not stopped there
    assert train(symbols, ended, "left_alone", num_ranks) == 0
    assert first_difference(contents(whole / "output"), contents(ended / "output")) is None
