"""Place of a process among those of the job, from torchrun, srun or arguments."""

import dataclasses
import platform
import re
from argparse import Namespace
from collections.abc import Mapping

import torch

# Set by torchrun for each of the processes it starts.
TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclasses.dataclass(frozen=True)
class Placement:
    """
    Attributes:
        launcher: who starts the processes: "torchrun", "srun" or "train_net.py".
        init_method: where they meet, for ``torch.distributed.init_process_group``; "" for processes
            of this machine alone, until it is known.
    """

    launcher: str
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    init_method: str

    @property
    def is_started(self) -> bool:
        """True where the processes of this machine run already."""
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
    Placement of this process, which variables of torchrun or srun decide, otherwise ``args``; where
    the processes are still to be started, that of the first on this machine.

    Raises:
        ValueError: arguments and variables contradict each other or the machine, in one line.
    """
    available = torch.cuda.device_count()  # which does not take hold of a GPU
    placement = _of_variables(environ) or _of_arguments(args)
    launcher, num_processes = placement.launcher, placement.local_world_size
    if launcher != "train_net.py" and max(args.num_gpus, args.num_machines) > 1:
        raise ValueError(
            f"--num-gpus and --num-machines are not for {launcher}, which starts the processes "
            f"itself: leave them out, and tell {launcher} how many"
        )
    is_own_gpu = launcher == "srun" and available == 1
    if 0 < available < num_processes and not is_own_gpu:
        raise ValueError(
            f"{launcher} starts {num_processes} processes on this machine, which has {available} "
            "GPU(s)"
        )
    return placement


def _of_variables(environ: Mapping[str, str]) -> Placement | None:
    """None in a process that neither torchrun nor srun has started as one of several."""
    missing = [name for name in TORCHRUN_VARIABLES if name not in environ]
    if not missing:
        rank, world_size, local_rank, size = (int(environ[name]) for name in TORCHRUN_VARIABLES)
        return Placement("torchrun", rank, world_size, local_rank, size, "env://")
    # Not set in a script of sbatch or a shell of salloc, and 1 in one of ``srun --pty bash``.
    if int(environ.get("SLURM_STEP_NUM_TASKS", 1)) == 1:
        if int(environ.get("WORLD_SIZE", 1)) > 1:  # each process would train alone
            raise ValueError(
                f"WORLD_SIZE is set, as by torchrun, but not {', '.join(missing)}: start the "
                "processes with torchrun, or unset it"
            )
        return None
    rank, world_size, local_rank, job, step = (
        int(environ[f"SLURM_{name}"])
        for name in ("PROCID", "STEP_NUM_TASKS", "LOCALID", "JOB_ID", "STEP_ID")
    )
    tasks = environ["SLURM_STEP_TASKS_PER_NODE"]
    match = re.fullmatch(r"(\d+)(\(x\d+\))?", tasks)  # "4(x2)"
    if match is None:
        raise ValueError(
            f"srun starts {tasks} processes on its nodes; --ntasks-per-node starts as many on each"
        )
    # "rack[03-05,09]n[1-2],other" begins with rack03n1.
    hosts = re.sub(r"\[(\d+)[^]]*\]", r"\1", environ["SLURM_STEP_NODELIST"])
    address = environ.get("MASTER_ADDR") or hosts.split(",")[0]
    # A port that the processes of a step agree on and others rarely share, below those that Linux
    # gives to outgoing connections.
    port = environ.get("MASTER_PORT") or 15000 + (31 * job + step) % 15000
    url = f"tcp://{address}:{port}"
    return Placement("srun", rank, world_size, local_rank, int(match[1]), url)


def _of_arguments(args: Namespace) -> Placement:
    if args.num_gpus < 1 or not 0 <= args.machine_rank < args.num_machines:
        raise ValueError("--num-gpus must be at least 1, --machine-rank less than --num-machines")
    url = "" if args.dist_url == "auto" else args.dist_url
    if args.num_machines > 1 and not url:
        raise ValueError(
            f"--num-machines {args.num_machines} needs --dist-url tcp://HOST:PORT, the same on all "
            "machines: HOST is the one of --machine-rank 0, PORT one that is free there"
        )
    world_size, rank = args.num_gpus * args.num_machines, args.machine_rank * args.num_gpus
    return Placement("train_net.py", rank, world_size, 0, args.num_gpus, url)
