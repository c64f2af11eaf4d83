"""Starting the processes of a job, and ending them together."""

import argparse
import dataclasses
import logging
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, start_processes

from ..command_line import EXPECTED_ERRORS, ProcessFailed, RankLost, last_line
from ..rank_barrier import wait_for_all
from .placement import Placement, find_placement
from .stop_signals import STOPPED, TrainingStopped, end_on_signals, heeded_signals

Main = Callable[[argparse.Namespace], object]

# A process that only says that another is lost lets that one's own end be seen first.
_SECONDS_FOR_CAUSE = 5.0
# For torch. Tensors on a CPU and Python objects, Detectron2's too, go over gloo in the same group,
# so that --timeout holds for both.
_BACKENDS = {"gloo": "gloo", "nccl": "cpu:gloo,cuda:nccl"}
_COLLECTIVES = r"\bgloo\b|nccl"
_LOST = r"\b(closed|reset|refused|broken pipe|remote process|timed out|timeout)\b"
_HINTS = {
    "SIGKILL": ", often for want of memory",
    "SIGABRT": ", as by NCCL when another rank does not answer in time (--timeout MINUTES)",
}


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
        ConnectionError: the processes did not find each other.
        ProcessFailed: a process started here failed: its own line, or which rank ended how.
        RankLost: another rank has ended or stalls, where torchrun or srun started this one.
        TrainingStopped, SystemExit: a signal stopped the processes in order, or ended them.
        KeyboardInterrupt: a second SIGINT.
    """
    if not 0 < args.timeout <= 365 * 24 * 60:
        raise ValueError(
            f"--timeout is {args.timeout:g} minutes; it must be more than 0, and at most a year"
        )
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

    context = start_processes(
        _run_started, (main, args, first), first.local_world_size, join=False, start_method="spawn"
    )
    previous = {signum: signal.signal(signum, forward) for signum in heeded_signals()}
    try:
        while not context.join():
            pass
    except ProcessRaisedException as error:
        raise _failure(error, first.rank + error.error_index) from None
    except ProcessExitedException as error:
        status, rank = error.exit_code, first.rank + error.error_index
        if status == STOPPED:
            raise TrainingStopped from None
        if -status in forwarded or status - 128 in forwarded:
            raise SystemExit(128 + abs(status) % 128) from None
        how = f"ended with status {status}"
        if error.signal_name is not None:
            how = f"was killed by {error.signal_name}{_HINTS.get(error.signal_name, '')}"
        raise ProcessFailed(f"rank {rank} (process {error.error_pid}) {how}") from None
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
        for process in context.processes:  # after a second Ctrl-C
            process.kill()


def _run_started(local_rank: int, main: Main, args: argparse.Namespace, first: Placement) -> None:
    """In a process that :func:`_start` has started."""
    placement = first.of_local_rank(local_rank)
    end_on_signals()
    try:
        _run(main, args, placement)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except RankLost as error:
        time.sleep(_SECONDS_FOR_CAUSE)
        raise ProcessFailed(f"rank {placement.rank}: {error}") from None
    except EXPECTED_ERRORS as error:
        raise ProcessFailed(last_line(error)) from None


def _failure(error: ProcessRaisedException, rank: int) -> ProcessFailed:
    """The traceback that torch hands over ends with the exception's name and message."""
    traceback = error.msg.strip()
    line = traceback.splitlines()[-1]
    expected = f"{ProcessFailed.__module__}.{ProcessFailed.__qualname__}: "
    if line.startswith(expected):
        return ProcessFailed(line.removeprefix(expected))
    print(traceback, file=sys.stderr)
    return ProcessFailed(f"rank {rank}: {line}")


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
    except RuntimeError as error:
        if not is_of_collective(error):
            raise
        raise RankLost(
            f"another rank did not answer within {args.timeout:g} minutes, or has ended "
            f"({last_line(error)}); its log may say why; if it only needs longer, raise "
            "--timeout MINUTES"
        ) from error
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
    several_machines = placement.world_size > placement.local_world_size
    if not several_machines:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        dist.init_process_group(
            _BACKENDS[placement.backend],
            init_method=placement.init_method,
            rank=placement.rank,
            world_size=placement.world_size,
            timeout=timeout,
        )
        comm.create_local_process_group(placement.local_world_size)
        wait_for_all()
    except RuntimeError as error:
        hint = ""
        if several_machines:
            hint = (
                "; GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the network card that reaches "
                "the other machines"
            )
        raise ConnectionError(
            f"rank {placement.rank} of {placement.world_size} did not find the others at "
            f"{placement.init_method}: {last_line(error)}{hint}"
        ) from error


def is_of_collective(error: RuntimeError) -> bool:
    """Of errors that torch raises where another rank stalls or has ended."""
    if not isinstance(error, dist.DistError) and not re.search(_COLLECTIVES, str(error), re.I):
        return False
    return bool(re.search(_LOST, str(error), re.I))
