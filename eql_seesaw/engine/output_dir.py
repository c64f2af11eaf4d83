"""The folder that a run writes into."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from typing import IO

from detectron2.utils import comm

# Locked for as long as a training runs; empty.
LOCK = ".lock"


@contextlib.contextmanager
def hold_output_dir(folder: str, eval_only: bool) -> Iterator[None]:
    """
    Make OUTPUT_DIR, and keep other trainings out of it in the meantime; evaluations may write there
    too. All processes take part; the main one looks.

    Raises:
        OSError: the folder cannot be written to.
        ValueError: another training runs there.
    """
    error = lock = None
    if comm.is_main_process():
        try:
            lock = _prepare(folder, eval_only)
        except (OSError, ValueError) as reason:
            error = reason
    error = comm.all_gather(error)[0]
    if error is not None:
        raise error
    with lock or contextlib.nullcontext():
        yield


def _prepare(folder: str, eval_only: bool) -> IO:
    os.makedirs(folder, exist_ok=True)
    lock = open(os.path.join(folder, LOCK), "ab")
    try:
        if not eval_only:
            # Not flock, which processes that load data would inherit, and keep when this is killed.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"OUTPUT_DIR {folder}: another training is running there; wait for its end, or give "
            "another OUTPUT_DIR"
        ) from None
    except OSError:
        pass  # a file system that has no locks
    return lock
