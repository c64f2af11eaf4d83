"""Starting the processes of one machine, and ending them together."""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, cast

from ..command_line import EXPECTED_ERRORS, ProcessFailed, RankLost, last_line
from .stop_signals import SIGNALS, STOPPED, TrainingStopped

# Where one process only says that another is lost, that one's own end is waited for this long.
_SECONDS_FOR_CAUSE = 5.0
# Between SIGTERM and SIGKILL, for processes that are to end because another has failed.
_SECONDS_TO_END = 5.0
# What a pipe takes before anybody reads it is 64 KiB.
MAX_CHARACTERS = 6000


@dataclasses.dataclass(frozen=True)
class _Report:
    """What a process says of the exception that ends it."""

    message: str
    traceback: str = ""
    is_rank_lost: bool = False


def run_processes(function: Callable[..., object], arguments: list[tuple], first_rank: int) -> None:
    """
    Run ``function(*arguments[i])`` in a process each, and wait for all of them. SIGTERM, SIGINT
    and SIGUSR1 are passed on to them; a second SIGINT ends them.

    If one fails, the others are ended: by SIGTERM, and SIGKILL some seconds later. If this process
    ends, however that happens, they end too.

    Args:
        function: of a module, with arguments that can be pickled.
        arguments: of each process.
        first_rank: what messages call the first process; the second is one more, and so on.

    Raises:
        ProcessFailed: one failed; names the rank and how it ended.
        TrainingStopped: a signal stopped them in order.
        SystemExit: a signal ended them before they could handle it; with the shell's status, 128
            and the signal's number.
    """
    context = multiprocessing.get_context("spawn")
    processes, readers = [], []
    try:
        for values in arguments:
            reader, writer = context.Pipe(duplex=False)
            processes.append(context.Process(target=_run, args=(writer, function, values)))
            readers.append(reader)
            processes[-1].start()
            writer.close()
        with _forwarded_signals(processes) as forwarded:
            _watch(processes, readers, first_rank, forwarded)
    finally:
        _end(processes)


def _run(writer: Connection, function: Callable[..., object], arguments: tuple) -> None:
    """In the new process: run the function, and report the exception that ends it."""
    os.setpgrp()  # so that Ctrl-C comes once, passed on, and not from the terminal as well
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        function(*arguments)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if isinstance(error, (*EXPECTED_ERRORS, RankLost)):
            report = _Report(
                last_line(error)[:MAX_CHARACTERS], is_rank_lost=isinstance(error, RankLost)
            )
        else:
            message = f"{type(error).__name__}: {error}"
            report = _Report(message[:MAX_CHARACTERS], _shortened(traceback.format_exc()))
        writer.send(report)
        sys.exit(1)


def _shortened(text: str) -> str:
    """Its beginning, where a traceback comes from, and its end, what went wrong."""
    if len(text) <= MAX_CHARACTERS:
        return text
    half = MAX_CHARACTERS // 2
    return f"{text[:half]}\n...\n{text[-half:]}"


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only called in a process that was started"
    wait([parent.sentinel])
    with contextlib.suppress(OSError):
        os.write(2, b"error: the process that started this one has ended\n")
    os._exit(1)


@contextlib.contextmanager
def _forwarded_signals(processes: Sequence[BaseProcess]) -> Iterator[list[int]]:
    """Pass signals on to the processes; gives the list of those that came."""
    forwarded = []

    def forward(signum, _):
        if signum == signal.SIGINT and signum in forwarded:
            raise KeyboardInterrupt
        forwarded.append(signum)
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, signum)

    previous = {s: signal.signal(s, forward) for s in SIGNALS}
    try:
        yield forwarded
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _watch(
    processes: Sequence[BaseProcess],
    readers: Sequence[Connection],
    first_rank: int,
    forwarded: list[int],
) -> None:
    """Return when all processes have ended well, raise when one has not."""
    running = {process.sentinel: index for index, process in enumerate(processes)}
    statuses: dict[int, int] = {}
    # Rank, report, when to give up waiting for its cause.
    lost: tuple[int, _Report, float] | None = None
    while running:
        timeout = None if lost is None else max(0.0, lost[2] - time.monotonic())
        ended: list[Any] = wait(list(running), timeout)
        for sentinel in ended:
            index = running.pop(sentinel)
            process, rank = processes[index], first_rank + index
            process.join()
            status = statuses[rank] = cast(int, process.exitcode)  # not None: it was joined
            report = _read(readers[index])
            if report is not None and report.is_rank_lost:
                lost = lost or (rank, report, time.monotonic() + _SECONDS_FOR_CAUSE)
            elif report is not None:
                raise ProcessFailed(
                    f"rank {rank}: {report.message}" if report.traceback else report.message,
                    report.traceback,
                )
            elif status not in (0, STOPPED) and not _is_from(status, forwarded):
                raise ProcessFailed(f"rank {rank} (process {process.pid}) {_ending(status)}")
        if lost is not None and not ended:
            break
    stopped = [status for status in statuses.values() if status != 0]
    by_signal = [status for status in stopped if _is_from(status, forwarded)]
    if by_signal:
        raise SystemExit(128 + abs(by_signal[0]) % 128)
    if STOPPED in stopped:
        raise TrainingStopped
    if lost is not None:
        raise ProcessFailed(f"rank {lost[0]}: {lost[1].message}")


def _is_from(status: int, forwarded: list[int]) -> bool:
    """Whether an exit status is what a signal that was passed on makes of an unprepared process."""
    return -status in forwarded or status - 128 in forwarded


def _read(reader: Connection) -> _Report | None:
    try:
        return reader.recv() if reader.poll() else None
    except EOFError:
        return None


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    reason = {
        "SIGKILL": ", often for want of memory",
        "SIGABRT": ", as by NCCL when another rank does not answer in time (--timeout MINUTES)",
    }
    return f"was killed by {name}{reason.get(name, '')}"


def _end(processes: Sequence[BaseProcess]) -> None:
    """End those that still run; a process that is stopped, or deaf, by SIGKILL."""
    for process in processes:
        if process.is_alive():
            process.terminate()
    deadline = time.monotonic() + _SECONDS_TO_END
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()
