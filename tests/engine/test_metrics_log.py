"""metrics.json of a run that was killed and resumed."""

import json
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage

from eql_seesaw.engine.metrics_log import MetricsWindow, ResumableJSONWriter


def write_lines(path, iterations, tail=b""):
    lines = [json.dumps({"iteration": i, "loss": i / 2}).encode() + b"\n" for i in iterations]
    path.write_bytes(b"".join(lines) + tail)
    return lines


@pytest.mark.parametrize(
    "iteration, kept, is_there",
    [
        (-1, 0, False),
        (0, 0, False),
        (19, 1, True),
        (25, 1, False),
        (39, 2, True),
        (59, 3, True),
        (99, 3, False),
    ],
)
def test_lines_of_later_iterations_are_dropped(tmp_path, iteration, kept, is_there):
    path = tmp_path / "metrics.json"
    lines = write_lines(path, [19, 39, 59])
    writer = ResumableJSONWriter(str(path))
    assert (writer.go_back(iteration).get("iteration") == iteration) is is_there
    assert path.read_bytes() == b"".join(lines[:kept])


def test_lines_that_are_not_in_order(tmp_path):
    """Detectron2 writes what came before the last step after it."""
    path = tmp_path / "metrics.json"
    lines = write_lines(path, [19, 39, 35, 59, 49])
    writer = ResumableJSONWriter(str(path))
    assert writer.go_back(59)
    assert path.read_bytes() == b"".join(lines)
    assert writer.go_back(40) == {}
    assert path.read_bytes() == b"".join(lines[:3])
    with EventStorage(41) as storage:
        storage.put_scalar("loss", 1, cur_iter=36)  # written before
        storage.put_scalar("other", 1, cur_iter=40)
        writer.write()
    assert json.loads(path.read_text().splitlines()[-1]) == {"iteration": 40, "other": 1}


def test_line_that_is_broken_in_the_middle_takes_no_other_with_it(tmp_path):
    path = tmp_path / "metrics.json"
    lines = write_lines(path, [19, 39, 59])
    path.write_bytes(lines[0] + b'{"itera{"iteration": 39}\n' + lines[1] + lines[2])
    assert ResumableJSONWriter(str(path)).go_back(59)
    assert path.read_bytes() == b"".join(lines)


def test_new_run_keeps_the_lines_of_an_earlier_one(tmp_path):
    path = tmp_path / "metrics.json"
    for number in (1, 2):
        lines = write_lines(path, [19, 39])
        writer = ResumableJSONWriter(str(path))
        writer.start_anew()
        assert path.read_bytes() == b""
        assert (tmp_path / f"metrics.json.{number}").read_bytes() == b"".join(lines)
    writer.start_anew()
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("tail", [b'{"iteration": 5', b"\0\0\0", b'{"iteration": 59}', b"[1]\n"])
def test_half_written_line_is_dropped(tmp_path, tail):
    path = tmp_path / "metrics.json"
    lines = write_lines(path, [19, 39], tail)
    writer = ResumableJSONWriter(str(path))
    assert not writer.go_back(59)
    assert path.read_bytes() == b"".join(lines)


def scalars(iteration):
    generator = torch.Generator().manual_seed(iteration)
    return {"loss": torch.rand(1, generator=generator).item()}


class Hooked:
    """What the hook needs of a trainer."""

    def __init__(self, storage, iteration):
        self.storage, self.iter = storage, iteration


def run(path, first, last, state=None, go_back_to=-1):
    """Iterations [first, last), written as Detectron2 does; the hook's state after the last."""
    hook = MetricsWindow(torch.nn.Identity())
    with EventStorage(first) as storage:
        hook.trainer = Hooked(storage, first)
        writer = ResumableJSONWriter(str(path))
        if state is not None:
            hook.load_state_dict(state)
        hook.before_train()
        writer.go_back(go_back_to)
        for iteration in range(first, last):
            storage.iter = hook.trainer.iter = iteration
            storage.put_scalars(**scalars(iteration))
            if iteration % 7 == 0:
                storage.put_scalar("sometimes", iteration, smoothing_hint=False)
            if (iteration + 1) % 20 == 0:
                writer.write()
        writer.close()
        return hook.state_dict()


@pytest.mark.parametrize("killed, checkpoint", [(33, 30), (45, 30), (45, 39), (60, 40), (59, 1)])
def test_medians_and_lines_go_on_as_if_never_stopped(tmp_path, killed, checkpoint):
    run(tmp_path / "whole.json", 0, 100)
    path = tmp_path / "killed.json"
    run(path, 0, killed)
    # What the checkpoint of an earlier iteration held.
    state = run(tmp_path / "other.json", 0, checkpoint + 1)
    run(path, checkpoint + 1, 100, state, go_back_to=checkpoint)
    assert path.read_text() == (tmp_path / "whole.json").read_text()


def test_window_is_no_longer_than_needed(tmp_path):
    state = run(tmp_path / "metrics.json", 0, 90)
    iterations = [iteration for _, iteration in state["metrics"]["loss"]["values"]]
    assert iterations == list(range(70, 90))


def test_accuracies_of_other_groups_are_left_out():
    hook = MetricsWindow(torch.nn.Identity())
    accuracy = SimpleNamespace(sums=torch.zeros(3, 4))
    hook.accuracies = [accuracy]
    with EventStorage() as storage:
        hook.trainer = Hooked(storage, 0)
        hook.load_state_dict({"accuracies": [torch.ones(3, 2).tolist()]})
        hook.before_train()
        assert not accuracy.sums.any()
        hook.load_state_dict({"accuracies": [torch.ones(3, 4).tolist()]})
        hook.before_train()
        assert accuracy.sums.equal(torch.ones(3, 4))
