"""Starting the processes of a job, and ending them together."""

import argparse
import logging
import os
import re
import signal
import sys
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

MAX_MINUTES = 365 * 24 * 60
# A process that only says that another is lost lets that one's own end be seen first.
_SECONDS_FOR_CAUSE = 5.0


class RankFailed(Exception):
    """The one line that a started process has to say of its end; no traceback is needed."""


def launch(main: Main, args: argparse.Namespace, check: Main | None = None) -> None:
    """
    Run ``main(args)`` in every process of the job: in this one if torchrun or srun started it,
    otherwise in ``args.num_gpus`` processes started here. Without a GPU, ``num_gpus`` is the number
    of CPU processes, which talk over gloo. In them, ``args.placement`` is their
    :class:`~eql_seesaw.engine.placement.Placement`.

    SIGTERM, SIGHUP, SIGINT and SIGUSR1 are passed on to processes started here, unless this process
    was told to ignore them; a second SIGINT ends them.
    If one of them fails, torch ends the others; if this process ends, they get SIGINT.

    Args:
        main: a function of a module (it is pickled).
        args: of :func:`~eql_seesaw.command_line.argument_parser`.
        check: called with ``args`` before processes are started here, to find mistakes first.

    Raises:
        ValueError: arguments, variables and machine do not fit together.
        ProcessFailed: a process started here failed: its own line, or which rank ended how.
        KeyboardInterrupt: a second SIGINT.
        ConnectionError: the processes did not find each other.
        TrainingStopped: a signal stopped the processes in order.
        SystemExit: a signal ended them before they could handle it; with the shell's status, 128
            and the signal's number.
        RankLost: another rank has ended or stalls, where torchrun or srun started this one.
    """
    if not 0 < args.timeout <= MAX_MINUTES:
        raise ValueError(
            f"--timeout is {args.timeout:g} minutes; it must be more than 0, and at most a year"
        )
    placement = find_placement(args, os.environ)
    end_on_signals()
    if placement.is_started:
        _run(main, args, placement)
        return
    if check is not None:
        check(args)
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
        raise _raised(error, first.rank + error.error_index) from None
    except ProcessExitedException as error:
        status = error.exit_code
        if status == STOPPED:
            raise TrainingStopped from None
        if -status in forwarded or status - 128 in forwarded:
            raise SystemExit(128 + abs(status) % 128) from None
        rank = first.rank + error.error_index
        raise ProcessFailed(f"rank {rank} (process {error.error_pid}) {_ending(error)}") from None
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
        raise RankFailed(f"rank {placement.rank}: {error}") from None
    except EXPECTED_ERRORS as error:
        raise RankFailed(last_line(error)) from None


def _raised(error: ProcessRaisedException, rank: int) -> ProcessFailed:
    """The traceback that torch hands over ends with the exception's name and message."""
    traceback = error.msg.strip()
    line = traceback.splitlines()[-1]
    name, _, message = line.partition(": ")
    if name == f"{RankFailed.__module__}.{RankFailed.__qualname__}":
        return ProcessFailed(message)
    return ProcessFailed(f"rank {rank}: {line}", f"{traceback}\n")


def _ending(error: ProcessExitedException) -> str:
    if error.signal_name is None:
        return f"ended with status {error.exit_code}"
    hint = {
        "SIGKILL": ", often for want of memory",
        "SIGABRT": ", as by NCCL when another rank does not answer in time (--timeout MINUTES)",
    }
    return f"was killed by {error.signal_name}{hint.get(error.signal_name, '')}"


def _run(main: Main, args: argparse.Namespace, placement: Placement) -> None:
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
        # A process that ends with the group's threads running may be aborted; but after an error
        # NCCL would wait for the other ranks.
        if dist.is_initialized() and (sys.exc_info()[0] is None or dist.get_backend() == "gloo"):
            dist.destroy_process_group()


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


def rank_lost(error: RuntimeError, timeout: timedelta) -> RankLost | None:
    """
    Words for users of an error of a collective, which torch words for its developers; None for an
    error of another kind.
    """
    message = str(error)
    if not isinstance(error, dist.DistError) and not re.search("gloo|nccl", message, re.I):
        return None
    cause = _cause(message)
    # Torch says "timed out" of connections that are refused, too.
    if re.search("closed|reset|refused|broken pipe|remote process", message, re.I):
        return RankLost(f"the connection to another rank is lost ({cause}); its log may say why")
    if re.search("timed out|timeout", message, re.I):
        minutes = timeout.total_seconds() / 60
        return RankLost(
            f"another rank did not answer within {minutes:g} minutes, so it stalls or has ended "
            f"({cause}); if it only needs longer, raise --timeout MINUTES"
        )
    return None


def _cause(message: str) -> str:
    """NCCL's last error, or the first line, without the place in torch's sources."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    place = next((i + 1 for i, line in enumerate(lines[:-1]) if line.startswith("Last error")), 0)
    return re.sub(r"^\[\S+:\d+\] ", "", lines[place]).rstrip(". ")
