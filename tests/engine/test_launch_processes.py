"""Real processes: how they are started, and how they end together."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.ranks import ROOT, Script, free_port

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="these are processes without a GPU"
)

PROGRAM = "tests/engine/launch_main.py"
MODULE = [sys.executable, "-W", "ignore", "-m", "tests.engine.launch_main"]
OWN = ["--num-gpus", "2"]


def start_ready(*arguments, **variables):
    """A started program whose two processes are about to do what they are named for."""
    script = Script(PROGRAM, *OWN, *arguments, **variables)
    assert [script.stdout.readline() for _ in range(2)] == ["ready\n"] * 2, script.stderr.read()
    return script


def last_line(text):
    return text.strip().splitlines()[-1]


def start_srun():
    """The two processes that srun would start."""
    job = {"SLURM_JOB_ID": free_port(), "SLURM_STEP_ID": 0, "SLURM_STEP_NUM_TASKS": 2}
    job |= {"SLURM_STEP_TASKS_PER_NODE": 2, "SLURM_STEP_NODELIST": "localhost"}
    return [
        Script(PROGRAM, "report", **job, SLURM_PROCID=rank, SLURM_LOCALID=rank) for rank in (0, 1)
    ]


def start_two_machines():
    machines = ["--num-machines", 2, "--dist-url", f"tcp://127.0.0.1:{free_port()}"]
    return [Script(PROGRAM, *machines, "--machine-rank", rank, "report") for rank in (0, 1)]


def check_report(output, launcher, is_two=False):
    lines = [json.loads(line) for line in output.splitlines() if line != "ready"]
    assert sorted(lines, key=lambda line: line["rank"]) == [
        {
            "rank": rank,
            "size": 2,
            "local": [0, 1] if is_two else [rank, 2],
            "sum": 3.0,
            "launcher": launcher,
        }
        for rank in (0, 1)
    ]


@pytest.mark.parametrize("launcher", ["train_net.py", "srun", "two machines"])
def test_every_launcher_gives_detectron2_its_ranks(launcher):
    starts = {
        "train_net.py": lambda: [Script(PROGRAM, *OWN, "report")],
        "srun": start_srun,
        "two machines": start_two_machines,
    }
    ended = [script.communicate() for script in starts[launcher]()]
    assert [status for status, _, _ in ended] == [0] * len(ended), ended
    is_two = launcher == "two machines"
    output = "".join(output for _, output, _ in ended)
    check_report(output, "train_net.py" if is_two else launcher, is_two)


@pytest.mark.slow
def test_torchrun():
    """Itself, with processes of its own; one dies once all know their ranks."""
    torchrun = ["torch.distributed.run", "--nproc_per_node=2", f"--master-port={free_port()}"]
    command = [*MODULE[:-1], *torchrun, *MODULE[-2:], "report_and_fail", "SIGKILL"]
    process = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 1 and "SIGKILL" in process.stderr
    check_report(process.stdout, "torchrun")


FAILURES = {
    "SIGKILL": r"error: rank 1 \(process \d+\) was killed by SIGKILL, often for want of memory",
    "exit": r"error: rank 1 \(process \d+\) ended with status 7",
    "ValueError": r"error: dataset 'x' is empty",
    "KeyError": r"KeyError: 'a mistake of ours'",
}


@pytest.mark.parametrize("failure", FAILURES)
def test_dead_rank_ends_the_others(failure):
    script = start_ready("fail", failure)
    status, _, errors = script.communicate()
    assert status == 1
    # Python's note of a SIGTERM that came while it removed a weak reference.
    errors = re.sub(r"Exception ignored in.*?SystemExit: 143\n", "", errors, flags=re.DOTALL)
    assert re.fullmatch(FAILURES[failure], last_line(errors)), errors
    # What nobody expects comes with its traceback, the rest without any.
    assert ("Traceback" in errors) == (failure == "KeyError"), errors


def listening_addresses(pid):
    """Of the sockets that a process listens at, hexadecimal, and without ports."""
    sockets = {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink()}
    lines = [line for name in ("tcp", "tcp6") for line in open(f"/proc/net/{name}").readlines()[1:]]
    fields = [line.split() for line in lines]
    is_listening = "0A"
    return [
        local.split(":")[0]
        for _, local, _, state, *others in fields
        if state == is_listening and f"socket:[{others[5]}]" in sockets
    ]


def test_processes_of_one_machine_are_reached_from_nowhere_else():
    script = start_ready("unprepared")
    ranks = Path(f"/proc/{script.pid}/task/{script.pid}/children").read_text().split()
    addresses = [a for pid in (script.pid, *ranks) for a in listening_addresses(pid)]
    script.end(signal.SIGKILL)
    assert set(addresses) <= {"0100007F"}


def test_ranks_share_the_cores():
    share = str(max(1, os.cpu_count() // 2))
    for expected, variables in ((share, {}), ("3", {"RAYON_NUM_THREADS": "3"})):
        script = Script(PROGRAM, *OWN, "threads", **variables)
        assert script.communicate()[:2] == (0, f"{expected}\n" * 2)


@pytest.mark.parametrize("variables", [{}, {"AS_WITH_GPUS": "1"}], ids=["tensors", "objects"])
def test_stalled_rank(variables):
    script = start_ready("--timeout", "0.05", "fail", "silence", **variables)
    status, _, errors = script.communicate()
    assert status == 1
    assert "Process 0 terminated with the following error" in errors
    assert "timed out" in last_line(errors).lower()


def test_killed_launcher():
    script = start_ready("unprepared")
    os.kill(script.pid, signal.SIGKILL)
    # Standard output is at its end when nobody is left to write to it.
    status, _, errors = script.communicate()
    assert status == -signal.SIGKILL and "Traceback" not in errors


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signal_to_the_launcher_stops_training_in_order(name):
    script = start_ready("train")
    os.kill(script.pid, signal.Signals[name])
    status, output, errors = script.communicate()
    assert status == 75
    assert output.splitlines() == [f"saved after {name}"] * 2
    assert last_line(errors) == f"{name}: stops after this step"


def test_signal_during_evaluation():
    script = start_ready("evaluate")
    os.kill(script.pid, signal.SIGTERM)
    assert script.communicate()[0] == 75


@pytest.mark.parametrize("name, expected", [("SIGTERM", 143), ("SIGINT", 130)])
def test_signal_before_training(name, expected):
    script = start_ready("unprepared")
    os.kill(script.pid, signal.Signals[name])
    status, _, errors = script.communicate()
    assert status == expected and "Traceback" not in errors


def test_second_interrupt_ends_a_step_that_does_not():
    script = start_ready("stuck")
    os.kill(script.pid, signal.SIGINT)
    assert script.stderr.readline() == "SIGINT: stops after this step\n"
    os.kill(script.pid, signal.SIGINT)
    assert script.communicate()[0] == 130
