"""A benchmark in a process of its own, so that it has a fresh heap and may crash alone."""

import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import cast

from .row import Row

SECONDS_TO_CLEAN_UP = 10


class BenchmarkFailed(Exception):
    """The process ended before the benchmark; the message says how."""


def measured_rows(module: str, device: str, quick: bool) -> Iterator[Row]:
    """
    Run a benchmark.

    Args:
        module: full name of a module with ``rows(device, quick)``.
        device: "cpu" or "cuda".
        quick: for the tests.

    Yields:
        Its rows, each as soon as it is measured.

    Raises:
        BenchmarkFailed: after the rows that were measured; the process's error is on stderr.
    """
    # The profiler that measures memory logs to stderr at every use.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_rows, args=(module, device, quick, sender))
    process.start()
    sender.close()  # so that the end of the process is the end of the rows
    try:
        while True:
            yield receiver.recv()
    except EOFError:
        process.join()
    finally:
        if process.is_alive():  # this one was interrupted
            os.kill(cast(int, process.pid), signal.SIGINT)
            process.join(SECONDS_TO_CLEAN_UP)
        process.terminate()
        process.join()
    exitcode = cast(int, process.exitcode)  # not None: it was joined
    if exitcode != 0:
        raise BenchmarkFailed(_how_it_ended(exitcode))


def _send_rows(module: str, device: str, quick: bool, sender: Connection) -> None:
    try:
        for row in importlib.import_module(module).rows(device, quick):
            sender.send(row)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _how_it_ended(exitcode: int) -> str:
    if exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    return f"exit status {exitcode}"
