"""Clocks that are wrong."""

import json
import time

import pytest
import torch


@pytest.fixture
def clock_going_back(monkeypatch):
    """Each look at the clock is an hour before the last."""
    now = time.time()
    looks = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: now - 3600 * next(looks))


@pytest.mark.slow
def test_goes_back(train_net, overrides, tmp_path, clock_going_back, monkeypatch):
    run = ["quickstart/seesaw.yaml", *overrides]
    run += ["SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.MAX_CHECKPOINTS", "2"]
    assert train_net(*run) is None
    monkeypatch.undo()
    assert train_net(*run, "OUTPUT_DIR", str(tmp_path / "good")) is None
    kept, metrics, weights = [], [], []
    for folder in (tmp_path / "output", tmp_path / "good"):
        kept.append(sorted(path.name for path in folder.glob("*.pth")))
        lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
        metrics.append([{k: line[k] for k in line if "time" not in k} for line in lines])
        weights.append(torch.load(folder / "model_final.pth", weights_only=True)["model"])
    assert kept[0] == kept[1] and metrics[0] == metrics[1]
    assert all(torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())
