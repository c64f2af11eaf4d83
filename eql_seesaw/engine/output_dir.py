"""The folder that a run writes into."""

import contextlib
import errno
import fcntl
import glob
import logging
import os
import tempfile
import time
from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.utils import comm

from ..evaluation.results_file import remove_stale
from .checkpoint_files import has_checkpoint

logger = logging.getLogger(__name__)

# Locked for as long as a training runs; empty.
LOCK = ".lock"
# The processes that load for a training that is killed hold its lock until they notice.
SECONDS_TO_UNLOCK = 5.0
# An evaluation writes more often than that; it may run beside another, or beside a training.
SECONDS_TO_BE_STALE = 3600.0
# Room for the first lines of a log, without which nobody would learn what went wrong.
BYTES_NEEDED = 2**16


def check_output_dir(cfg: CfgNode, resume: bool) -> None:
    """
    Raises:
        ValueError: a new run would write over the checkpoints of an earlier one.
    """
    if has_checkpoint(cfg.OUTPUT_DIR) and not resume:
        raise ValueError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} has checkpoints of an earlier run; give --resume to go "
            "on with that run, or another OUTPUT_DIR"
        )


@contextlib.contextmanager
def hold_output_dir(folder: str, eval_only: bool) -> Iterator[None]:
    """
    Make OUTPUT_DIR, and keep other trainings out of it in the meantime. An evaluation needs to be
    able to write there, no more. All processes take part; the main one looks.

    Raises:
        OSError: the folder cannot be written to.
        ValueError: another training runs there. Both in one line.
    """
    with contextlib.ExitStack() as stack:
        error = None
        if comm.is_main_process():
            try:
                stack.enter_context(_locked(folder, is_exclusive=not eval_only))
            except (OSError, ValueError) as reason:
                error = reason
        error = comm.all_gather(error)[0]
        if error is not None:
            raise error
        yield


@contextlib.contextmanager
def _locked(folder: str, is_exclusive: bool) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(folder, exist_ok=True)
            lock = stack.enter_context(open(os.path.join(folder, LOCK), "ab", buffering=0))
            if is_exclusive:
                _lock(lock.fileno(), folder)
            elif _is_locked(lock.fileno()):
                logger.warning(
                    f"OUTPUT_DIR {folder}: a training is running there, and evaluates into the "
                    "same folder; give another OUTPUT_DIR, and its checkpoint as MODEL.WEIGHTS"
                )
            for inference in glob.glob(os.path.join(glob.escape(folder), "inference*", "*")):
                remove_stale(inference, 0.0 if is_exclusive else SECONDS_TO_BE_STALE)
            _try_to_write(folder)
        except OSError as error:
            raise OSError(f"OUTPUT_DIR {folder}: {error.strerror}") from None
        yield


def _try_to_write(folder: str) -> None:
    with tempfile.TemporaryFile(dir=folder, buffering=0) as f:
        # A full disk may take a part only.
        if f.write(b"\0" * BYTES_NEEDED) < BYTES_NEEDED:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _lock(descriptor: int, folder: str) -> None:
    deadline = time.monotonic() + SECONDS_TO_UNLOCK
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"OUTPUT_DIR {folder}: another training is running there; wait for its end, "
                    "or give another OUTPUT_DIR"
                ) from None
            time.sleep(0.1)
        except OSError:
            return  # a file system that has no locks
