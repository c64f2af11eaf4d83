"""Starting the processes of a job, and ending them together."""

import argparse
import dataclasses
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.queues import SimpleQueue

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException, get_context, start_processes

from ..command_line import EXPECTED_ERRORS, last_line
from ..rank_barrier import wait_for_all
from .placement import Placement, find_placement
from .stop_signals import STOPPED, TrainingStopped, end_on_signals, heeded_signals

Main = Callable[[argparse.Namespace], object]

# An error that may only be that another process has failed lets that one's own end be seen first.
_SECONDS_FOR_CAUSE = 5.0
# For torch. Tensors on a CPU and Python objects, Detectron2's too, go over gloo in the same group,
# so that --timeout holds for both.
_BACKENDS = {"gloo": "gloo", "nccl": "cpu:gloo,cuda:nccl"}


def launch(main: Main, args: argparse.Namespace, check: Main | None = None) -> None:
    """
    Run ``main(args)`` in every process of the job: in this one if torchrun or srun started it,
    otherwise in ``args.num_gpus`` processes started here, on CPUs where there are no GPUs. In them,
    ``args.placement`` is their :class:`~eql_seesaw.engine.placement.Placement`. Signals are passed
    on to processes started here. If one of them fails, torch ends the others; if this process ends,
    they get SIGINT.

    Args:
        main: a function of a module (it is pickled).
        args: of :func:`~eql_seesaw.command_line.argument_parser`.
        check: called with ``args`` before processes are started here, to find mistakes first.

    Raises:
        ValueError: arguments, variables and machine do not fit together.
        ProcessRaisedException: a process started here failed in a way that nobody expects.
        TrainingStopped: a signal stopped the processes in order.
        SystemExit: a signal ended them, or one failed: its own line, or which rank ended how.
        KeyboardInterrupt: a second SIGINT.
    """
    args.placement = placement = find_placement(args, os.environ)
    end_on_signals()
    if placement.is_started:
        _run(main, args, placement)
        return
    if check is not None:
        check(args)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if not placement.init_method:
            # Not a port, which other machines might reach.
            placement = dataclasses.replace(placement, init_method=f"file://{folder}/meeting")
        _start(main, args, placement)


def _start(main: Main, args: argparse.Namespace, first: Placement) -> None:
    """Run ``main`` in a process for each rank of this machine, and wait for all of them."""
    forwarded: list[int] = []
    # It names each process that it ends, after the line that says why.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)

    def forward(signum, _):
        if signum == signal.SIGINT and signum in forwarded:
            raise KeyboardInterrupt
        forwarded.append(signum)
        for process in context.processes:
            if process.is_alive():
                os.kill(process.pid, signum)

    errors = get_context("spawn").SimpleQueue()  # lines of errors that a user can act on
    arguments = (main, args, first, errors)
    context = start_processes(
        _run_started, arguments, first.local_world_size, join=False, start_method="spawn"
    )
    previous = {signum: signal.signal(signum, forward) for signum in heeded_signals()}
    try:
        while not context.join():
            pass
    except ProcessExitedException as error:
        status, rank = error.exit_code, first.rank + error.error_index
        if status == STOPPED:
            raise TrainingStopped from None
        if -status in forwarded or status - 128 in forwarded:
            raise SystemExit(128 + abs(status) % 128) from None
        if not errors.empty():
            raise SystemExit(f"error: {errors.get()}") from None
        how = f"ended with status {status}"
        if error.signal_name is not None:
            how = f"was killed by {error.signal_name}"
        if error.signal_name == "SIGKILL":
            how += ", often for want of memory"
        raise SystemExit(f"error: rank {rank} (process {error.error_pid}) {how}") from None
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
        for process in context.processes:  # after a second Ctrl-C
            process.kill()


def _run_started(
    local_rank: int, main: Main, args: argparse.Namespace, first: Placement, errors: SimpleQueue
) -> None:
    """In a process that :func:`_start` has started."""
    end_on_signals()
    try:
        _run(main, args, first.of_local_rank(local_rank))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except EXPECTED_ERRORS as error:
        errors.put(last_line(error))
        sys.exit(1)


def _run(main: Main, args: argparse.Namespace, placement: Placement) -> None:
    args.placement = placement
    if placement.local_world_size > 1:
        # Otherwise hotcoco would start a thread for each core in every process. srun may have given
        # the process cores of its own.
        share = max(1, (os.cpu_count() or 1) // placement.local_world_size)
        threads = min(share, len(os.sched_getaffinity(0)))
        os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    try:
        if placement.world_size > 1:
            join_ranks(placement, timedelta(minutes=args.timeout))
        main(args)
    except EXPECTED_ERRORS:
        raise
    except Exception:
        if placement.world_size > 1:
            time.sleep(_SECONDS_FOR_CAUSE)
        raise
    finally:
        # A process that ends with the group's threads running may be aborted; but after an error
        # NCCL would wait for the other ranks.
        ending = sys.exc_info()[1]
        together = ending is None or isinstance(ending, TrainingStopped) and ending.together
        if dist.is_initialized() and (together or placement.backend == "gloo"):
            dist.destroy_process_group()


def join_ranks(placement: Placement, timeout: timedelta) -> None:
    """Make torch's process group, and what Detectron2's ``comm`` needs."""
    if placement.backend == "nccl":
        torch.cuda.set_device(placement.device)
    if placement.world_size == placement.local_world_size:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        _BACKENDS[placement.backend],
        init_method=placement.init_method,
        rank=placement.rank,
        world_size=placement.world_size,
        timeout=timeout,
    )
    comm.create_local_process_group(placement.local_world_size)
    wait_for_all()
