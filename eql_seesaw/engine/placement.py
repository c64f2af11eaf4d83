"""Place of a process among those of the job, from torchrun, srun or arguments."""

import dataclasses
import platform
import re
from argparse import Namespace
from collections.abc import Mapping

import torch

# Set by torchrun for each of the processes it starts.
TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
# ``init_method`` of processes of one machine, which meet at a store that who starts them keeps.
HERE = "127.0.0.1"
# Ids from here on are Slurm's own steps: the batch script, and the shell of an allocation.
_FIRST_SPECIAL_STEP = 4294967290


@dataclasses.dataclass(frozen=True)
class Placement:
    """
    Attributes:
        launcher: who starts the processes: "torchrun", "srun" or "train_net.py".
        rank, world_size: among all processes.
        local_rank, local_world_size: among those of this machine.
        init_method: where they meet, for ``torch.distributed.init_process_group``; or ``HERE``.
        store_port: of the store at ``HERE``, once it is there.
    """

    launcher: str
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    init_method: str
    store_port: int = 0

    @property
    def is_started(self) -> bool:
        """True where the processes of this machine run already, this one being one of them."""
        return self.launcher != "train_net.py" or self.world_size == 1

    @property
    def backend(self) -> str:
        """ "nccl" with GPUs, "gloo" without."""
        return "nccl" if torch.cuda.device_count() else "gloo"

    @property
    def device(self) -> str:
        """ "cuda:0", "cpu", ..."""
        available = torch.cuda.device_count()
        if not available:
            return "cpu"
        # With --gpus-per-task, Slurm shows each process one GPU, its own.
        return f"cuda:{self.local_rank if available > 1 else 0}"

    def of_local_rank(self, local_rank: int) -> "Placement":
        """The placement of another process of this machine."""
        rank = self.rank - self.local_rank + local_rank
        return dataclasses.replace(self, rank=rank, local_rank=local_rank)

    def describe(self) -> str:
        """In one line, for the log."""
        if self.world_size == 1:
            return f"one process, on {self.device}"
        machines = self.world_size // self.local_world_size
        return (
            f"rank {self.rank} of {self.world_size} processes started by {self.launcher}, "
            f"{self.local_world_size} on each of {machines} machine(s), this one "
            f"{platform.node()}: on {self.device}, {self.backend} over {self.init_method}"
        )


def find_placement(args: Namespace, environ: Mapping[str, str]) -> Placement:
    """
    Args:
        args: of :func:`~eql_seesaw.command_line.argument_parser`.
        environ: variables of torchrun or srun decide, otherwise ``args``.

    Returns:
        This process's placement; where the processes are still to be started, that of the first on
        this machine.

    Raises:
        ValueError: arguments and variables contradict each other or the machine, in one line.
    """
    missing = [name for name in TORCHRUN_VARIABLES if name not in environ]
    if not missing:
        rank, world_size, local_rank, size_here = (
            _integer(environ, name) for name in TORCHRUN_VARIABLES[:4]
        )
        placement = Placement("torchrun", rank, world_size, local_rank, size_here, "env://")
        return _checked(placement, args, "--nproc_per_node and --nnodes")
    if _is_one_of_srun(environ):
        placement = Placement(
            "srun",
            _integer(environ, "SLURM_PROCID"),
            _integer(environ, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
            _integer(environ, "SLURM_LOCALID"),
            _srun_local_world_size(environ),
            _srun_init_method(environ),
        )
        return _checked(placement, args, "--ntasks-per-node and --nodes")
    if "RANK" in environ and environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError(
            f"RANK and WORLD_SIZE are set, as by torchrun, but not {', '.join(missing)}: start the "
            "processes with torchrun, or unset them all"
        )
    return _of_arguments(args)


def _is_one_of_srun(environ: Mapping[str, str]) -> bool:
    """
    True in one of several processes that srun started. The script of sbatch and the shell of salloc
    have SLURM_PROCID and SLURM_NTASKS too, but they are in no step; a shell of ``srun --pty bash``
    is alone in its step.
    """
    step = environ.get("SLURM_STEP_ID", environ.get("SLURM_STEPID", ""))
    if not step.isdecimal() or int(step) >= _FIRST_SPECIAL_STEP or "SLURM_PROCID" not in environ:
        return False
    return int(environ.get("SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS", 1))) > 1


def _srun_local_world_size(environ: Mapping[str, str]) -> int:
    names = ("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE")
    counts = next((environ[name] for name in names if name in environ), "")
    match = re.fullmatch(r"(\d+)(\(x\d+\))?", counts)
    if match is None:
        raise ValueError(
            f"srun starts {counts!r} processes on its nodes; it must be as many on each: use "
            "--ntasks-per-node"
        )
    return int(match[1])


def _srun_init_method(environ: Mapping[str, str]) -> str:
    """The first node, and a port that all processes of a step agree on and others rarely share."""
    hosts = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    # "rack[03-05,09]n[1-2],other" begins with rack03n1.
    first_host = re.sub(r"\[(\d+)[^]]*\]", r"\1", hosts).split(",")[0]
    address = environ.get("MASTER_ADDR") or first_host
    if not address:
        raise ValueError("srun set no SLURM_JOB_NODELIST; set MASTER_ADDR to the first host's name")
    job, step = environ.get("SLURM_JOB_ID", "0"), environ.get("SLURM_STEP_ID", "0")
    # Below the ports that Linux gives to outgoing connections.
    port = environ.get("MASTER_PORT") or 15000 + (31 * int(job) + int(step)) % 15000
    return f"tcp://{address}:{port}"


def _of_arguments(args: Namespace) -> Placement:
    for option, value in (("num-gpus", args.num_gpus), ("num-machines", args.num_machines)):
        if value < 1:
            raise ValueError(f"--{option} is {value}; it must be at least 1")
    if not 0 <= args.machine_rank < args.num_machines:
        raise ValueError(
            f"--machine-rank is {args.machine_rank}; with --num-machines {args.num_machines} it "
            f"must be from 0 to {args.num_machines - 1}"
        )
    url = args.dist_url
    if url == "auto" and args.num_machines > 1:
        raise ValueError(
            f"--num-machines {args.num_machines} needs --dist-url tcp://HOST:PORT, the same on all "
            "machines: HOST is the one of --machine-rank 0, PORT one that is free there"
        )
    if url != "auto" and not url.startswith(("tcp://", "file://")):
        raise ValueError(f"--dist-url is {url!r}; it must be auto or tcp://HOST:PORT")
    _check_gpus(f"--num-gpus {args.num_gpus}", args.num_gpus)
    world_size = args.num_gpus * args.num_machines
    if url == "auto" and world_size > 1:
        url = HERE
    rank = args.machine_rank * args.num_gpus
    return Placement("train_net.py", rank, world_size, 0, args.num_gpus, url)


def _checked(placement: Placement, args: Namespace, instead: str) -> Placement:
    """The placement of a process that torchrun or srun has started, if it can be one."""
    launcher, local_world_size = placement.launcher, placement.local_world_size
    for option, value in (("num-gpus", args.num_gpus), ("num-machines", args.num_machines)):
        if value > 1:
            raise ValueError(
                f"--{option} {value} under {launcher}, which starts the processes itself: leave it "
                f"out, and give {launcher} {instead}"
            )
    # Detectron2 takes the ranks of a machine to follow each other.
    in_order = placement.rank % local_world_size == placement.local_rank
    if not in_order or placement.world_size % local_world_size:
        raise ValueError(
            f"{launcher} gave rank {placement.rank} of {placement.world_size} to process "
            f"{placement.local_rank} of the {local_world_size} on its machine; ranks must be "
            "counted machine by machine, with as many on each (srun --distribution=block)"
        )
    if not (launcher == "srun" and torch.cuda.device_count() == 1):
        _check_gpus(f"{launcher} starts {local_world_size} processes", local_world_size)
    return placement


def _check_gpus(wish: str, num_processes: int) -> None:
    # Counting does not take hold of a GPU.
    available = torch.cuda.device_count()
    if 0 < available < num_processes:
        raise ValueError(f"{wish}, but this machine has {available} GPU(s)")


def _integer(environ: Mapping[str, str], *names: str) -> int:
    name = next((name for name in names if name in environ), names[-1])
    try:
        return int(environ[name])
    except (KeyError, ValueError):
        raise ValueError(f"{name} is {environ.get(name)!r}; it must be a whole number") from None
