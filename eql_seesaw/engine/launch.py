"""Starting the processes of a training run."""

import argparse
import os
import sys
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from detectron2.utils import comm

from ..command_line import last_line
from ..rank_barrier import wait_for_all
from .lost_ranks import rank_lost
from .placement import Placement, find_placement
from .processes import run_processes


def launch(main: Callable[[argparse.Namespace], object], args: argparse.Namespace) -> None:
    """
    Run ``main(args)`` in every process of the job: in this one if torchrun or srun started it,
    otherwise in ``args.num_gpus`` processes started here. Without a GPU, ``num_gpus`` is the number
    of CPU processes, which talk over gloo. In them, ``args.placement`` is their
    :class:`~eql_seesaw.engine.placement.Placement`.

    Args:
        main: a function of a module (it is pickled).
        args: of :func:`~eql_seesaw.command_line.argument_parser`.

    Raises:
        ValueError: arguments, variables and machine do not fit together.
        ProcessFailed, SystemExit: as ``run_processes``.
        RankLost: another rank has ended or stalls, where torchrun or srun started this one.
    """
    if not args.timeout > 0:
        raise ValueError(f"--timeout is {args.timeout:g} minutes; it must be more than 0")
    placement = find_placement(args, os.environ)
    if placement.is_started:
        _run(main, args, placement)
        return
    placements = [placement.of_local_rank(i) for i in range(placement.local_world_size)]
    run_processes(_run, [(main, args, each) for each in placements], first_rank=placement.rank)


def _run(
    main: Callable[[argparse.Namespace], object], args: argparse.Namespace, placement: Placement
) -> None:
    args.placement = placement
    timeout = timedelta(minutes=args.timeout)
    try:
        if placement.world_size > 1:
            _join(placement, timeout)
        main(args)
    except RuntimeError as error:
        lost = rank_lost(error, timeout)
        if lost is None:
            raise
        raise lost from error
    finally:
        _leave()


def _join(placement: Placement, timeout: timedelta) -> None:
    """Make torch's process group, and what Detectron2's ``comm`` needs."""
    if placement.backend == "nccl":
        torch.cuda.set_device(placement.device)
    try:
        dist.init_process_group(
            placement.backend,
            init_method=placement.init_method,
            rank=placement.rank,
            world_size=placement.world_size,
            timeout=timeout,
        )
    except dist.DistError as error:
        raise ConnectionError(
            f"rank {placement.rank} of {placement.world_size} did not find the others at "
            f"{placement.init_method}: {last_line(error)}"
        ) from error
    comm.create_local_process_group(placement.local_world_size)
    wait_for_all()


def _leave() -> None:
    """A process that ends with the group's threads running may be aborted."""
    # After an error NCCL would wait for the other ranks.
    if dist.is_initialized() and (sys.exc_info()[0] is None or dist.get_backend() == "gloo"):
        dist.destroy_process_group()
