"""Which process this is among those of the job, and how they find each other."""

import dataclasses
import platform
import socket
from argparse import Namespace
from collections.abc import Mapping

import torch

from . import slurm

# What torchrun sets for each of the processes it starts.
TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")


@dataclasses.dataclass(frozen=True)
class Placement:
    """
    Where a process stands.

    Attributes:
        launcher: who starts the processes: "torchrun", "srun" or "train_net.py".
        rank, world_size: among all processes.
        local_rank, local_world_size: among those of this machine.
        init_method: where they meet, for ``torch.distributed.init_process_group``.
        backend: "nccl" with GPUs, "gloo" without.
        device: "cuda:0", "cpu", ...
    """

    launcher: str
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    init_method: str
    backend: str
    device: str

    @property
    def is_started(self) -> bool:
        """Whether the processes of this machine run already, this one being one of them."""
        return self.launcher != "train_net.py" or self.world_size == 1

    def of_local_rank(self, local_rank: int) -> "Placement":
        """The placement of another process of this machine."""
        return dataclasses.replace(
            self,
            rank=self.rank - self.local_rank + local_rank,
            local_rank=local_rank,
            device=_device(local_rank),
        )

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
        return _of_torchrun(args, environ)
    if slurm.in_step_of_many(environ):
        return _of_srun(args, environ)
    if "RANK" in environ and environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError(
            f"RANK and WORLD_SIZE are set, as by torchrun, but not {', '.join(missing)}: start the "
            "processes with torchrun, or unset them all"
        )
    return _of_arguments(args)


def _of_torchrun(args, environ):
    _refuse_own_processes(args, "torchrun", "--nproc_per_node and --nnodes")
    rank, world_size, local_rank, local_world_size = (
        _integer(environ, name) for name in TORCHRUN_VARIABLES[:4]
    )
    return _started("torchrun", rank, world_size, local_rank, local_world_size, "env://")


def _of_srun(args, environ):
    _refuse_own_processes(args, "srun", "--ntasks-per-node and --nodes")
    counts = slurm.tasks_per_node(environ)
    if len(set(counts)) > 1:
        raise ValueError(
            f"srun starts {counts} processes on its nodes; it must be as many on each: use "
            "--ntasks-per-node"
        )
    address = environ.get("MASTER_ADDR") or slurm.node_list(environ)[0]
    port = environ.get("MASTER_PORT") or slurm.master_port(environ)
    return _started(
        "srun",
        _integer(environ, "SLURM_PROCID"),
        slurm.num_tasks(environ),
        _integer(environ, "SLURM_LOCALID"),
        counts[0],
        f"tcp://{address}:{port}",
    )


def _of_arguments(args):
    if args.num_gpus < 1:
        raise ValueError(f"--num-gpus is {args.num_gpus}; it must be at least 1")
    if args.num_machines < 1:
        raise ValueError(f"--num-machines is {args.num_machines}; it must be at least 1")
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
        url = f"tcp://127.0.0.1:{_free_port()}"
    return Placement(
        "train_net.py",
        args.machine_rank * args.num_gpus,
        world_size,
        0,
        args.num_gpus,
        url,
        _backend(),
        _device(0),
    )


def _started(launcher, rank, world_size, local_rank, local_world_size, url):
    """The placement of a process that ``launcher`` has started."""
    # Detectron2 takes the ranks of a machine to follow each other.
    if rank % local_world_size != local_rank or world_size % local_world_size:
        raise ValueError(
            f"{launcher} gave rank {rank} of {world_size} to process {local_rank} of the "
            f"{local_world_size} on its machine; ranks must be counted machine by machine, with "
            "as many on each (srun --distribution=block)"
        )
    # With --gpus-per-task, Slurm shows each process one GPU, its own.
    if not (launcher == "srun" and torch.cuda.device_count() == 1):
        _check_gpus(f"{launcher} starts {local_world_size} processes", local_world_size)
    return Placement(
        launcher,
        rank,
        world_size,
        local_rank,
        local_world_size,
        url,
        _backend(),
        _device(local_rank),
    )


def _refuse_own_processes(args, launcher, instead):
    for name in ("num_gpus", "num_machines"):
        if getattr(args, name) > 1:
            option = f"--{name.replace('_', '-')} {getattr(args, name)}"
            raise ValueError(
                f"{option} under {launcher}, which starts the processes itself: leave it out, and "
                f"give {launcher} {instead}"
            )


def _check_gpus(wish, num_processes):
    # Counting does not take hold of a GPU.
    available = torch.cuda.device_count()
    if 0 < available < num_processes:
        raise ValueError(f"{wish}, but this machine has {available} GPU(s)")


def _backend():
    return "nccl" if torch.cuda.device_count() else "gloo"


def _device(local_rank):
    available = torch.cuda.device_count()
    if not available:
        return "cpu"
    return f"cuda:{local_rank if available > 1 else 0}"


def _integer(environ, name):
    try:
        return int(environ[name])
    except (KeyError, ValueError):
        raise ValueError(f"{name} is {environ.get(name)!r}; it must be a whole number") from None


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
