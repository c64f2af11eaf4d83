"""Starting the processes of a training run."""

import argparse
import os
from typing import Callable

import torch
import torch.distributed as dist
from detectron2.engine import default_argument_parser
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm

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
        try:
            main(args)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
        return
    available = torch.cuda.device_count()
    if 0 < available < args.num_gpus:
        raise ValueError(f"--num-gpus {args.num_gpus}, but this machine has {available}")
    detectron2_launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


def _join_torchrun() -> None:
    """Make torchrun's process group the one that Detectron2 uses."""
    if int(os.environ["WORLD_SIZE"]) == 1:
        return
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if has_gpu else "gloo")
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()
