"""Starting the processes of a training run."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from detectron2.engine import default_argument_parser
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm
from torch.multiprocessing import ProcessRaisedException

# For collectives. While rank 0 evaluates, which may take long, the others wait in one.
TIMEOUT = timedelta(hours=6)

# What torchrun sets for each of the processes it starts.
TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")


def argument_parser(description: str) -> argparse.ArgumentParser:
    """Detectron2's parser (--config-file, --num-gpus, --resume, --eval-only, KEY VALUE ...)."""
    parser = default_argument_parser(epilog=description)
    parser.epilog, parser.description = None, description
    return parser


def launch(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """
    Run ``main(args)`` in every process of the job: in this one if torchrun started it, otherwise in
    ``args.num_gpus`` processes that Detectron2 starts. Without a GPU, ``num_gpus`` is the number of
    CPU processes, which talk over gloo.

    Args:
        main: a function of a module (it is pickled).
        args: of Detectron2's ``default_argument_parser``.

    Raises:
        ValueError: more GPUs are asked for than the machine has.
    """
    if all(name in os.environ for name in TORCHRUN_VARIABLES):
        _join_torchrun()
        _run(main, args)
        return
    available = torch.cuda.device_count()
    if 0 < available < args.num_gpus:
        raise ValueError(f"--num-gpus {args.num_gpus}, but this machine has {available}")
    detectron2_launch(
        _run,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(main, args),
        timeout=TIMEOUT,
    )


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """
    End the program with one line on stderr, and status 1, where config, data or weights are wrong:
    on ValueError, OSError and ImportError, also of a process that :func:`launch` started.
    """
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        lines = str(error).strip().splitlines()
        # The error of a data loader's worker ends with the worker's traceback.
        sys.exit(f"error: {lines[-1].removeprefix('ValueError: ')}" if lines else repr(error))
    except ProcessRaisedException as error:
        last_line = str(error).strip().splitlines()[-1]
        name, _, reason = last_line.partition(": ")
        if not name.endswith(("ValueError", "FileNotFoundError", "ImportError", "CheckpointError")):
            raise
        sys.exit(f"error: {reason}")


def _run(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    try:
        main(args)
    finally:
        # A process that ends with the group's threads running may be aborted.
        if dist.is_initialized():
            dist.destroy_process_group()


def _join_torchrun() -> None:
    """Make torchrun's process group the one that Detectron2 uses."""
    if int(os.environ["WORLD_SIZE"]) == 1:
        return
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if has_gpu else "gloo", timeout=TIMEOUT)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()
