import statistics

import pytest
import torch

from eql_seesaw.benchmarks import measure
from eql_seesaw.benchmarks.measure import interleaved_seconds, peak_memory
from eql_seesaw.benchmarks.row import Row

MATRIX = 4 * 500 * 400  # bytes, float32


def test_rounds_take_turns_and_warm_up_is_left_out(monkeypatch):
    called = []

    def seconds_of(function):
        function()
        return float(len(called))

    monkeypatch.setattr(measure, "_cpu_seconds", seconds_of)
    functions = [lambda name=name: called.append(name) for name in "abc"]
    seconds = interleaved_seconds(functions, repetitions=3, warm_up=1)
    assert "".join(called) == "cab" + "abc" + "bca" + "cab"
    assert seconds == [[4, 9, 11], [5, 7, 12], [6, 8, 10]]


@pytest.mark.parametrize("num_matrices", [1, 3])
def test_peak_memory_of_matrices(num_matrices):
    def work():
        matrices = [torch.ones(500, 400) for _ in range(num_matrices)]
        del matrices
        torch.ones(500, 400)

    assert peak_memory(work) == num_matrices * MATRIX


def test_peak_memory_inside_of_operators():
    logits = torch.zeros(500, 400, requires_grad=True)

    def work():
        loss = torch.nn.functional.cross_entropy(logits, torch.zeros(500, dtype=torch.long))
        torch.autograd.grad(loss, logits)

    # log-probabilities, and their gradient and that of the logits.
    assert peak_memory(work) == pytest.approx(3 * MATRIX, rel=0.01)


def row(seconds, peer_seconds, **kwargs):
    return Row("", "", "", "", {}, seconds, peer_seconds, **kwargs)


def test_ratios_of_a_row():
    measured = row([1, 2, 3, 4, 9], [2, 2, 2, 2, 2], memory=3, peer_memory=4)
    assert measured.time_ratio == 1.5 and measured.memory_ratio == 0.75
    first, _, third = statistics.quantiles([0.5, 1, 1.5, 2, 4.5])
    assert measured.time_ratio_quartiles == (first, third)
    assert row([], []).time_ratio is None and row([], []).time_ratio_quartiles is None


@pytest.mark.parametrize(
    "limits, identical, reached",
    [
        ({}, None, None),
        ({"time_limit": 1.5}, None, True),
        ({"time_limit": 1.4}, None, False),
        ({"time_limit": 1.5, "memory_limit": 0.7}, None, False),
        ({"time_limit": 1.5}, False, False),
    ],
)
def test_a_row_reaches_its_aims(limits, identical, reached):
    measured = row([3], [2], memory=3, peer_memory=4, identical=identical, **limits)
    assert measured.reached is reached


def test_what_was_not_measured_is_neither_reached_nor_missed():
    assert row([], [], time_limit=1.0).reached is None
    assert row([1], [2], time_limit=1.0, memory_limit=1.0).reached is None
