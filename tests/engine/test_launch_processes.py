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

from tests.engine.conftest import ROOT
from tests.engine.test_train_net import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="these are processes without a GPU"),
]

PROGRAM = ["-m", "tests.engine.launch_main"]
OWN = [*PROGRAM, "--num-gpus", "2"]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
# What "one rank dying ends the others" may take.
SECONDS = 60


def start(*arguments, **variables):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_ready(*arguments, **variables):
    """A started program whose two processes are about to do what they are named for."""
    process = start(*arguments, **variables)
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2, process.stderr.read()
    return process


def end(process):
    """Status, standard output and the last line of standard error."""
    output, errors = process.communicate(timeout=600)
    return process.returncode, output, (errors.strip().splitlines() or [""])[-1]


def start_torchrun(*arguments):
    return start(*TORCHRUN, f"--master-port={free_port()}", *arguments)


def start_srun(*arguments):
    """The two processes that srun would start."""
    job = {"SLURM_JOB_ID": str(free_port()), "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"}
    job |= {"SLURM_TASKS_PER_NODE": "2", "SLURM_JOB_NODELIST": "localhost"}
    return [start(*arguments, **job, SLURM_PROCID=rank, SLURM_LOCALID=rank) for rank in ("0", "1")]


@pytest.mark.parametrize("launcher", ["train_net.py", "torchrun", "srun", "two machines"])
def test_every_launcher_gives_detectron2_its_ranks(launcher):
    if launcher == "train_net.py":
        processes = [start(*OWN, "report")]
    elif launcher == "torchrun":
        processes = [start_torchrun(*PROGRAM, "report")]
    elif launcher == "srun":
        processes = start_srun(*PROGRAM, "report")
    else:
        machines = ["--num-machines", "2", "--dist-url", f"tcp://127.0.0.1:{free_port()}"]
        processes = [
            start(*PROGRAM, *machines, "--machine-rank", rank, "report") for rank in ("0", "1")
        ]
    ended = [end(process) for process in processes]
    assert [status for status, _, _ in ended] == [0] * len(ended), ended
    lines = [json.loads(line) for _, output, _ in ended for line in output.splitlines()]
    is_two = launcher == "two machines"
    assert sorted(lines, key=lambda line: line["rank"]) == [
        {
            "rank": rank,
            "size": 2,
            "local": [0, 1] if is_two else [rank, 2],
            "sum": 3.0,
            "launcher": "train_net.py" if is_two else launcher,
        }
        for rank in (0, 1)
    ]


FAILURES = {
    "SIGKILL": r"error: rank 1 \(process \d+\) was killed by SIGKILL, often for want of memory",
    "exit": r"error: rank 1 \(process \d+\) ended with status 7",
    "ValueError": r"error: dataset 'x' is empty",
    "KeyError": r"error: rank 1: KeyError: 'a mistake of ours'",
}


@pytest.mark.fault("a rank dies", "the others end within 60 s, one line says which and how")
@pytest.mark.parametrize("failure", FAILURES)
def test_dead_rank_ends_the_others(failure):
    process = start_ready(*OWN, "fail", failure)
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert re.fullmatch(FAILURES[failure], errors.strip().splitlines()[-1]), errors
    # What nobody expects comes with its traceback, the rest without any.
    assert ("Traceback" in errors) == (failure == "KeyError"), errors


@pytest.mark.fault(
    "a rank fails while rank 0 writes a checkpoint", "rank 0 has a minute to finish it"
)
def test_dead_rank_leaves_time_to_save():
    status, output, line = end(start(*OWN, "save_slowly"))
    assert (status, output, line) == (1, "saved\n", "error: dataset 'x' is empty")


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
    process = start_ready(*OWN, "unprepared")
    ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    addresses = [a for pid in (process.pid, *ranks) for a in listening_addresses(pid)]
    process.kill()
    end(process)
    assert addresses and set(addresses) == {"0100007F"}


def test_ranks_share_the_cores(monkeypatch):
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)
    share = str(max(1, os.cpu_count() // 2))
    assert end(start(*OWN, "threads"))[:2] == (0, f"{share}\n" * 2)
    assert end(start(*OWN, "threads", RAYON_NUM_THREADS="3"))[:2] == (0, "3\n3\n")


def test_device_of_a_number_is_refused_for_several_processes(overrides):
    config = ["--config-file", str(ROOT / "configs" / "quickstart" / "seesaw.yaml")]
    words = [*config, "--num-gpus", "2", *overrides, "MODEL.DEVICE", "cuda:1"]
    status, _, line = end(start("train_net.py", *words))
    assert status == 1
    assert line.startswith("error: MODEL.DEVICE is cuda:1, but each of 2 processes takes a GPU")


@pytest.mark.fault("a rank started by torchrun dies", "torchrun ends the others within 60 s")
def test_dead_rank_under_torchrun():
    process = start_torchrun(*PROGRAM, "fail", "SIGKILL")
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "SIGKILL" in errors


@pytest.mark.fault("a rank stalls", "the others give up after --timeout and say so; it is ended")
@pytest.mark.parametrize("variables", [{}, {"AS_WITH_GPUS": "1"}], ids=["tensors", "objects"])
def test_stalled_rank(variables):
    process = start_ready(*OWN, "--timeout", "0.05", "fail", "silence", **variables)
    status, _, line = end(process)
    assert status == 1
    assert line.startswith("error: rank 0: another rank did not answer within 0.05 minutes")
    assert "--timeout" in line


@pytest.mark.fault("the process that started the ranks is killed", "the ranks end too")
def test_killed_launcher():
    process = start_ready(*OWN, "unprepared")
    process.kill()
    # Standard output is at its end when nobody is left to write to it.
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == -signal.SIGKILL and "Traceback" not in errors


@pytest.mark.fault("a signal during training", "status 75 after saving, on all ranks")
# SIGUSR1, and what is saved, are in tests/faults/test_crash.py.
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_signal_to_the_launcher_stops_training_in_order(name):
    process = start_ready(*OWN, "train")
    process.send_signal(signal.Signals[name])
    status, output, line = end(process)
    assert status == 75
    assert output.splitlines() == [f"saved after {name}"] * 2
    assert line == f"{name}: stops after this step"


@pytest.mark.fault("a signal while rank 0 evaluates", "status 75 at once, on all ranks")
def test_signal_during_evaluation():
    process = start_ready(*OWN, "evaluate")
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == 75


@pytest.mark.parametrize("name, expected", [("SIGTERM", 143), ("SIGINT", 130)])
def test_signal_before_training(name, expected):
    process = start_ready(*OWN, "unprepared")
    process.send_signal(signal.Signals[name])
    output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == expected
    assert "Traceback" not in errors


@pytest.mark.fault(
    "SIGTERM, as of `docker stop`, to the first process of a container that evaluates",
    "It ends at once, with status 143; nothing temporary stays",
)
def test_signal_to_the_first_process_of_a_container(tmp_path):
    first_process = ["unshare", "--fork", "--pid", "--kill-child", "--mount-proc"]
    if subprocess.run([*first_process, "true"], capture_output=True).returncode:
        pytest.skip("a process namespace takes more rights")
    process = subprocess.Popen(
        [*first_process, sys.executable, "-W", "ignore", *PROGRAM, "evaluate_alone"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    assert any(tmp_path.glob("*.partial"))
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)
    assert process.wait(timeout=SECONDS) == 143
    assert not any(tmp_path.glob("*.partial"))


@pytest.mark.fault("Ctrl-C twice", "the run ends without saving, status 130")
def test_second_interrupt_ends_a_step_that_does_not():
    process = start_ready(*OWN, "stuck")
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "SIGINT: stops after this step\n"
    process.send_signal(signal.SIGINT)
    assert end(process)[0] == 130


def test_mistake_of_launching_through_train_net(overrides):
    config = ["--config-file", str(ROOT / "configs" / "quickstart" / "seesaw.yaml")]
    status, _, line = end(start("train_net.py", *config, "--num-machines", "2", *overrides))
    assert status == 1
    assert line.startswith("error: --num-machines 2 needs --dist-url")
