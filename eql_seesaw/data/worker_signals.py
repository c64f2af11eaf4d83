"""Data loading processes that leave signals to the process that they load for."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator

# Sent by a scheduler, Ctrl-C or a closed terminal to a whole process group.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """Around the start of workers, so that none of the signals finds them unprepared."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_parent(worker_id: int) -> None:
    """
    The ``worker_init_fn`` of a torch ``DataLoader`` on Linux. The worker ignores SIGINT, SIGUSR1,
    SIGHUP, and SIGTERM of others than its parent; it ends at once where its parent terminates it
    or dies.
    """
    # Not os.getppid(): a parent killed before this line has left its worker to another process.
    parent_process = multiprocessing.parent_process()
    assert parent_process is not None and parent_process.pid is not None
    for signum in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    if not hasattr(signal, "sigtimedwait"):  # macOS; torch's handler of SIGTERM does without
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return
    # Blocked, SIGTERM waits for the thread below, which alone can see who sent it.
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, args=(parent_process.pid,), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        received = signal.sigtimedwait({signal.SIGTERM}, 1.0)
        if received is not None and received.si_pid == parent:
            break
    os._exit(0)
