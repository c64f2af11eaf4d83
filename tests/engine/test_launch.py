"""Who decides rank, world size, backend and device, by variables and arguments."""

import contextlib
import sys

import pytest
import torch

from eql_seesaw.command_line import argument_parser, one_line_errors
from eql_seesaw.engine import launch
from eql_seesaw.engine.placement import find_placement
from eql_seesaw.engine.stop_signals import TrainingStopped

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
}
SRUN = {
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "node[03-04]",
}


@pytest.fixture
def gpus(monkeypatch):
    """``gpus(n)`` makes this a machine with n GPUs."""

    def pretend(count):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    pretend(0)
    return pretend


def arguments(*options):
    return argument_parser("").parse_args(options)


@pytest.mark.parametrize(
    "hosts, first",
    [
        ("gpu1", "gpu1"),
        ("node[03-05,09],gpu-a1", "node03"),
        ("r[0-1]n[1-2]-ib", "r0n1-ib"),
        ("a.b.c,d[001]", "a.b.c"),
    ],
)
def test_srun_processes_meet_at_the_first_host(gpus, hosts, first):
    placement = find_placement(arguments(), {**SRUN, "SLURM_STEP_NODELIST": hosts})
    assert placement.init_method.startswith(f"tcp://{first}:")


def test_one_process(gpus):
    placement = find_placement(arguments(), {})
    assert placement.is_started
    assert (placement.rank, placement.world_size, placement.device) == (0, 1, "cpu")
    assert placement.describe() == "one process, on cpu"
    gpus(8)
    assert find_placement(arguments(), {}).device == "cuda:0"


def test_own_processes(gpus):
    gpus(4)
    options = ["--num-gpus", "4", "--num-machines", "3", "--machine-rank", "2"]
    first = find_placement(arguments(*options, "--dist-url", "tcp://node1:2000"), {})
    assert not first.is_started
    last = first.of_local_rank(3)
    assert (first.rank, first.local_rank, first.device) == (8, 0, "cuda:0")
    assert (last.rank, last.local_rank, last.device) == (11, 3, "cuda:3")
    assert last.world_size == 12 and last.local_world_size == 4 and last.backend == "nccl"
    for word in ("rank 11 of 12", "cuda:3", "nccl", "tcp://node1:2000", "3 machine(s)"):
        assert word in last.describe()


def test_own_processes_on_cpu(gpus):
    placement = find_placement(arguments("--num-gpus", "2"), {})
    assert placement.backend == "gloo" and placement.of_local_rank(1).device == "cpu"
    assert "rank 0 of 2" in placement.describe() and "gloo" in placement.describe()


def test_torchrun(gpus):
    gpus(4)
    placement = find_placement(arguments(), {**SRUN, **TORCHRUN})  # also below srun
    assert placement.launcher == "torchrun" and placement.is_started
    assert (placement.rank, placement.world_size) == (5, 8)
    assert (placement.local_rank, placement.local_world_size) == (1, 4)
    assert placement.device == "cuda:1" and placement.backend == "nccl"


def test_srun(gpus):
    placement = find_placement(arguments(), SRUN)
    assert placement.launcher == "srun" and placement.is_started
    assert (placement.rank, placement.world_size) == (5, 8)
    assert (placement.local_rank, placement.local_world_size) == (1, 4)
    assert placement.init_method.startswith("tcp://node03:")
    # All agree on the port, another job takes another.
    others = find_placement(arguments(), {**SRUN, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"})
    assert others.init_method == placement.init_method
    next_job = find_placement(arguments(), {**SRUN, "SLURM_JOB_ID": "1235"})
    next_step = find_placement(arguments(), {**SRUN, "SLURM_STEP_ID": "1"})
    assert len({p.init_method for p in (placement, next_job, next_step)}) == 3


def test_srun_with_chosen_master(gpus):
    chosen = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "2345"}
    assert find_placement(arguments(), {**SRUN, **chosen}).init_method == "tcp://10.0.0.1:2345"


def test_srun_that_shows_each_task_its_own_gpu(gpus):
    gpus(1)
    placement = find_placement(arguments(), SRUN)
    assert placement.device == "cuda:0" and placement.backend == "nccl"


@pytest.mark.parametrize("step", [{}, {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"}])
def test_batch_script_and_shells_are_not_srun(gpus, step):
    """They have variables of the job, and a shell of ``srun --pty bash`` is alone in its step."""
    environ = {"SLURM_JOB_ID": "1234", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", **step}
    placement = find_placement(arguments("--num-gpus", "2"), environ)
    assert placement.launcher == "train_net.py" and placement.world_size == 2


BAD_SETTINGS = {
    "torchrun and --num-gpus": (["--num-gpus", "2"], TORCHRUN, 0, "--num-gpus .*not for torchrun"),
    "torchrun and --num-machines": (["--num-machines", "2"], TORCHRUN, 0, "not for torchrun"),
    "srun and --num-gpus": (["--num-gpus", "8"], SRUN, 0, "--num-gpus .*not for srun"),
    "torchrun with more than there are": ([], TORCHRUN, 2, "4 processes .*, which has 2"),
    "srun with more than there are": ([], SRUN, 2, "4 processes .*, which has 2"),
    "more than there are": (["--num-gpus", "3"], {}, 2, "3 processes .*, which has 2"),
    "no process": (["--num-gpus", "0"], {}, 0, "--num-gpus must be at least 1"),
    "machines that cannot meet": (["--num-machines", "2"], {}, 0, "needs --dist-url"),
    "machine rank": (["--num-machines", "2", "--machine-rank", "2"], {}, 0, "--machine-rank less"),
    "uneven tasks": ([], {**SRUN, "SLURM_STEP_TASKS_PER_NODE": "4(x2),3"}, 0, "starts 4.x2.,3 "),
    "half of torchrun": ([], {"RANK": "1", "WORLD_SIZE": "2"}, 0, "not LOCAL_RANK, LOCAL_WORLD"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_contradictions_are_one_line(gpus, case):
    options, environ, num_gpus, pattern = BAD_SETTINGS[case]
    gpus(num_gpus)
    with pytest.raises(ValueError, match=pattern) as error:
        find_placement(arguments(*options), environ)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "ending, is_destroyed",
    [
        (None, True),
        (TrainingStopped(together=True), True),
        (TrainingStopped(), False),
        (ValueError("of one rank"), False),
    ],
)
def test_nccl_group_is_destroyed_where_no_rank_waits_for_it(
    gpus, monkeypatch, ending, is_destroyed
):
    gpus(4)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    monkeypatch.setattr(sys.modules[launch.__module__], "join_ranks", lambda *_: None)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    calls = []
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: calls.append(1))

    def main(args):
        if ending is not None:
            raise ending

    with contextlib.suppress(TrainingStopped, ValueError):
        launch(main, arguments())
    assert bool(calls) == is_destroyed


@pytest.mark.parametrize(
    "error, status",
    [
        (ValueError("wrong"), "error: wrong"),
        (FloatingPointError("nan in step 3"), "error: nan in step 3"),
        (KeyboardInterrupt(), "130"),
    ],
)
def test_one_line_errors(error, status):
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise error
    assert str(ended.value.code).startswith(status)
