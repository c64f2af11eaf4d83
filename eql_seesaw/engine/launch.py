"""Starting the processes of a job, and ending them together."""

import argparse
import dataclasses
import functools
import inspect
import logging
import os
import re
import signal
import socket
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
from .placement import HERE, Placement, find_placement
from .stop_signals import STOPPED, TrainingStopped, end_on_signals, heeded_signals

Main = Callable[[argparse.Namespace], object]

MAX_MINUTES = 365 * 24 * 60
# A process that only says that another is lost lets that one's own end be seen first.
_SECONDS_FOR_CAUSE = 5.0
# After a process has failed, the others may end by themselves, as one does that still writes a
# checkpoint to a slow disk; then they get SIGTERM, and after as long again SIGKILL.
_GRACE_SECONDS = 60.0
# For torch. Tensors on a CPU and Python objects, Detectron2's too, go over gloo in the same group,
# so that --timeout holds for both.
_BACKENDS = {"gloo": "gloo", "nccl": "cpu:gloo,cuda:nccl"}


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
    If one of them fails, torch ends the others, after a minute to finish what they do; if this
    process ends, they get SIGINT.

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
    args.placement = placement = find_placement(args, os.environ)
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

    if first.init_method == HERE:
        store = _loopback_store()
        first = dataclasses.replace(first, store_port=store.port)
    context = start_processes(
        _run_started, (main, args, first), first.local_world_size, join=False, start_method="spawn"
    )
    join = context.join
    if "grace_period" in inspect.signature(join).parameters:  # older torch waits, or has 30 s
        join = functools.partial(join, grace_period=min(_GRACE_SECONDS, 60 * args.timeout))
    previous = {signum: signal.signal(signum, forward) for signum in heeded_signals()}
    try:
        while not join():
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
    if placement.local_world_size > 1:
        _share_cores(placement.local_world_size)
    try:
        if placement.world_size > 1:
            join_ranks(placement, timeout)
        main(args)
    except RuntimeError as error:
        lost = rank_lost(error, timeout)
        if lost is None:
            raise
        raise lost from error
    finally:
        # A process that ends with the group's threads running may be aborted; but after an error
        # NCCL would wait for the other ranks.
        ending = sys.exc_info()[1]
        together = ending is None or isinstance(ending, TrainingStopped) and ending.together
        if dist.is_initialized() and (together or placement.backend == "gloo"):
            dist.destroy_process_group()


def _share_cores(num_processes: int) -> None:
    """Otherwise hotcoco would start a thread for each core in every process."""
    share = max(1, (os.cpu_count() or 1) // num_processes)
    # srun may have given the process cores of its own.
    threads = min(share, len(os.sched_getaffinity(0)))
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))


def _loopback_store() -> dist.TCPStore:
    """Store at which the processes of this machine meet; no other machine reaches it."""
    listener = socket.create_server((HERE, 0))
    return dist.TCPStore(
        HERE,
        listener.getsockname()[1],
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def join_ranks(placement: Placement, timeout: timedelta) -> None:
    """Make torch's process group, and what Detectron2's ``comm`` needs."""
    if placement.backend == "nccl":
        torch.cuda.set_device(placement.device)
    store = None
    try:
        if placement.init_method == HERE:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            store = dist.TCPStore(HERE, placement.store_port, timeout=timeout)
        dist.init_process_group(
            _BACKENDS[placement.backend],
            init_method=None if store else placement.init_method,
            store=store,
            rank=placement.rank,
            world_size=placement.world_size,
            timeout=timeout,
        )
        comm.create_local_process_group(placement.local_world_size)
        wait_for_all()
    except RuntimeError as error:
        hint = ""
        if placement.world_size > placement.local_world_size:
            names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
            set_to = [f"{name} ({os.environ.get(name, 'not set')})" for name in names]
            hint = f"; {' and '.join(set_to)} name the network card that reaches the other machines"
        raise ConnectionError(
            f"rank {placement.rank} of {placement.world_size} did not find the others at "
            f"{placement.init_method}: {last_line(error)}{hint}"
        ) from error


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
