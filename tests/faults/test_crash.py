"""Runs that are killed; tests/crash_test.py kills them more often."""

import json
from signal import SIGKILL, SIGUSR1

import pytest
import torch

from eql_seesaw.engine.stop_signals import STOPPED
from tests.crash_test import (
    Kill,
    crash_test,
    differences,
    first_difference,
)

KILLS = [Kill(3, "checkpoint"), Kill(7, "evaluation"), Kill(10, "step")]


@pytest.mark.slow
def test_sigkill(tmp_path):
    rows, differing = crash_test(tmp_path, KILLS, num_steps=15)
    assert differing == []
    assert [row["exit status"] for row in rows] == [-SIGKILL] * 3
    assert rows[0]["killed while"].startswith("writing") and rows[-1]["resumed from step"] >= 4


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="these are processes without a GPU")
def test_stop_signal(tmp_path):
    """SIGTERM and SIGINT are in tests/engine/test_launch_processes.py."""
    rows, differing = crash_test(
        tmp_path, [Kill(5, "step")], num_steps=9, num_ranks=2, signals=(SIGUSR1,)
    )
    assert differing == []
    assert [row["exit status"] for row in rows] == [STOPPED]
    assert rows[0]["newest checkpoint"] >= 5


@pytest.fixture
def folders(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text('{"loss": 1.0, "time": 2.0}\n')
        torch.save({"model": {"w": torch.tensor([0.0, 1.0])}}, tmp_path / name / "model.pth")
        (tmp_path / name / "per_category.csv").write_text("name,AP\nowl,nan\n")
    return tmp_path / "a", tmp_path / "b"


def test_same_folders(folders):
    line = {"loss": 1.0, "time": 3.0, "eta_seconds": 1}
    (folders[1] / "metrics.json").write_text(json.dumps(line) + "\n")
    (folders[1] / "log.txt").write_text("a log")
    assert list(differences(*folders)) == []


def test_checkpoints_of_a_stop(folders):
    (folders[1] / "model.pth").rename(folders[1] / "model_0000007.pth")
    lines = ["model.pth is missing", "model_0000007.pth should not be there"]
    assert list(differences(*folders)) == lines
    assert list(differences(*folders, is_stopped=True)) == lines[:1]


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("metrics.json", '{"loss": 1.5, "time": 2.0}\n', "metrics.json[0]['loss']: 1.5 instead"),
        ("metrics.json", '{"loss": 1.0}\n' * 2, "metrics.json['length']: 2 instead of 1"),
        ("metrics.json", '{"loss": 1.0, "x": 1}\n', "metrics.json[0]: keys ['x']"),
        ("per_category.csv", "name,AP\nowl,0\n", "per_category.csv[1]: 'owl,0' instead"),
        ("model.pth.12.partial", "", "model.pth.12.partial should not be there"),
        ("per_category.csv", None, "per_category.csv is missing"),
    ],
)
def test_differing_files(folders, name, content, expected):
    if content is None:
        (folders[1] / name).unlink()
    else:
        (folders[1] / name).write_text(content)
    (line,) = differences(*folders)
    assert line.startswith(expected)


@pytest.mark.parametrize(
    "found", [torch.tensor([-0.0, 1]), torch.tensor([0.0, 1 + 1e-7]), torch.tensor([0, 1]), [0, 1]]
)
def test_tensors_differ_in_a_bit(found):
    tensor = torch.tensor([0.0, 1.0])
    assert first_difference({"w": [tensor]}, {"w": [found]}).startswith("['w'][0]: ")
    nan = torch.tensor([0.0, float("nan")])
    assert first_difference(nan, nan.clone()) == ""
