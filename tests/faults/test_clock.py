"""Clocks that are wrong."""

import json
import os
import time

import pytest
import torch

from .conftest import own_annotations


@pytest.fixture
def clock_going_back(monkeypatch):
    """Each look at the clock is an hour before the last."""
    now = time.time()
    looks = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: now - 3600 * next(looks))


@pytest.mark.slow
@pytest.mark.fault(
    "The clock goes back an hour whenever it is looked at",
    "weights, metrics and kept checkpoints as with a good clock",
)
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


def change_a_class(content):
    annotation = content["annotations"][0]
    annotation["category_id"] = 5 if annotation["category_id"] == 2 else 2


@pytest.mark.slow
@pytest.mark.fault(
    "Annotation file and cached class statistics are of next year",
    "a later change of the annotations is seen all the same",
)
def test_files_of_the_future(train_net, overrides, symbols, tmp_path):
    path = tmp_path / "train.json"
    extra = own_annotations(symbols, path)
    future = time.time() + 365 * 24 * 3600
    os.utime(path, (future, future))
    assert train_net("quickstart/seesaw.yaml", *overrides, *extra, "SOLVER.MAX_ITER", "1") is None
    cache = next(tmp_path.glob("train.json.*"))
    os.utime(cache, (future + 1, future + 1))
    # Another class at an unchanged number of bytes: only the time tells.
    content = path.read_text()
    own_annotations(symbols, path, change_a_class)
    assert len(path.read_text()) == len(content) and path.read_text() != content
    extra += ["OUTPUT_DIR", str(tmp_path / "second"), "SOLVER.MAX_ITER", "1"]
    assert train_net("quickstart/seesaw.yaml", *overrides, *extra) is None
    recorded = json.loads((tmp_path / "second" / "recorded_statistics.json").read_text())
    first = json.loads((tmp_path / "output" / "recorded_statistics.json").read_text())
    assert recorded["image_counts"] != first["image_counts"]
