"""The profiles find each part, and hand back what they took over to do so."""

import pytest
import torch

from eql_seesaw.benchmarks import profiles
from eql_seesaw.benchmarks.profiles import Part, describe, profile_evaluation, profile_step
from eql_seesaw.modeling import LongTailFastRCNNOutputLayers


def test_step():
    inference = LongTailFastRCNNOutputLayers.inference
    backward = torch.Tensor.backward
    parts = {part.name: part for part in profile_step("seesaw", quick=True)}
    assert {name for name, part in parts.items() if part.is_ours} == {
        "accuracy",
        "classification loss",
        "hooks",
        "losses: check and log",
        "step, the rest",
    }
    assert all(part.forward > 0 for part in parts.values())
    in_both_passes = {name for name, part in parts.items() if part.backward > 0}
    assert in_both_passes >= {
        "RPN",
        "backbone and FPN",
        "box head",
        "box pooling",
        "box regression loss",
        "classification loss",
        "classifier and box layer",
        "mask head",
        "mask pooling",
    }
    # What is without gradient, and what comes after.
    assert not in_both_passes & {"accuracy", "data loading", "hooks", "optimizer"}
    assert LongTailFastRCNNOutputLayers.inference is inference
    assert torch.Tensor.backward is backward


def test_evaluation():
    inference = LongTailFastRCNNOutputLayers.inference
    parts = {part.name: part for part in profile_evaluation("eql", quick=True)}
    assert {name for name, part in parts.items() if part.is_ours} == {
        "AP",
        "box post-processing",
        "evaluator, the rest",
        "masks to RLE",
        "matching",
        "pictures and report",
        "writing results",
    }
    used = {name for name, part in parts.items() if part.forward > 0}
    assert set(parts) - used == {"optimizer"}
    assert not any(part.backward for part in parts.values())
    assert LongTailFastRCNNOutputLayers.inference is inference


def test_table():
    table = describe(
        [
            Part("model", False, forward=0.010, backward=0.020),
            Part("loss", True, forward=0.030, backward=0.040),
            Part("nothing", True, forward=0.0, backward=0.0),
        ]
    )
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert lines == [
        ["loss", "ours", "30.0", "40.0", "70.0"],
        ["model", "", "10.0", "20.0", "30.0"],
        ["all of ours", "", "30.0", "40.0", "70.0"],
        ["all", "", "40.0", "60.0", "100.0"],
    ]


def test_command(monkeypatch, capsys):
    asked = []

    def profile(loss):
        asked.append(loss)
        return [Part("loss", True, forward=1.0, backward=1.0)]

    monkeypatch.setattr(profiles, "profile_step", profile)
    monkeypatch.setattr(profiles, "profile_evaluation", profile)
    assert profiles.main(["step"]) == profiles.main(["evaluation", "--loss", "eql"]) == 0
    assert asked == ["seesaw", "eql"]
    assert "| loss" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        profiles.main(["step", "--loss", "elq"])
