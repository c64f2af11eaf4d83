"""The folder that a run writes into."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from typing import IO

from detectron2.utils import comm

from ..rank_barrier import wait_for_all

# Locked for as long as a training runs; empty.
LOCK = ".lock"


@contextlib.contextmanager
def hold_output_dir(folder: str, eval_only: bool) -> Iterator[None]:
    """
    Make OUTPUT_DIR, and keep other trainings out of it in the meantime; evaluations may write there
    too. All processes take part; the main one looks.

    Raises (in the main process):
        OSError: the folder cannot be written to.
        ValueError: another training runs there.
    """
    lock: contextlib.AbstractContextManager = contextlib.nullcontext()
    if comm.is_main_process():
        lock = _prepare(folder, eval_only)
    wait_for_all()  # over gloo, which sees at once that the main process has ended
    with lock:
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
