"""Signals that ask a training run to end."""

import contextlib
import os
import signal
from collections.abc import Iterator

from detectron2.utils import comm

# Exit status of a run that a signal stopped and that --resume continues: EX_TEMPFAIL of sysexits.h,
# "try again later".
STOPPED = 75

# kill, Kubernetes and the end of a Slurm job; Ctrl-C; Slurm's warning (sbatch --signal=USR1@300); a
# terminal that is closed, or lost with its ssh.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


def heeded_signals() -> list[signal.Signals]:
    """Signals that whoever started this process (nohup, ``&`` in a script) left on."""
    return [signum for signum in SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]


def end_on_signals() -> None:
    """
    From now on a signal ends the process with the shell's status, 128 and its number; also the
    first process of a container, and what is temporary is removed.
    """
    for signum in heeded_signals():
        if signal.getsignal(signum) is signal.SIG_DFL:
            signal.signal(signum, _end)


def _end(signum, _):
    raise SystemExit(128 + signum)


class TrainingStopped(SystemExit):
    """Ends with status ``STOPPED``; ``together`` where no rank waits for another then."""

    def __init__(self, together: bool = False):
        super().__init__(STOPPED)
        self.together = together


class StopSignals:
    """
    While it is entered, ``SIGNALS`` do not end the process but are noted: ``requested`` is the
    first one's name, "" until one came. In a run of one process a second SIGINT, Ctrl-C, raises
    KeyboardInterrupt; with several, whoever started them deals with it.
    """

    def __init__(self):
        self.requested = ""
        self._is_interrupted = False
        self._is_at_once = False
        self._previous = {}

    def __enter__(self) -> "StopSignals":
        self._previous = {s: signal.signal(s, self._handle) for s in heeded_signals()}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """For work that need not be finished: a signal, or one before, raises TrainingStopped."""
        self._is_at_once = True
        try:
            if self.requested:
                raise TrainingStopped
            yield
        finally:
            self._is_at_once = False

    def _handle(self, signum, _):
        is_second_interrupt = signum == signal.SIGINT and self._is_interrupted
        self._is_interrupted |= signum == signal.SIGINT
        if is_second_interrupt and comm.get_world_size() == 1:
            raise KeyboardInterrupt
        if not self.requested:
            self.requested = signal.Signals(signum).name
            if comm.is_main_process() and not self._is_at_once:
                # Not print: the signal may have come in the middle of one.
                with contextlib.suppress(OSError):
                    os.write(2, f"{self.requested}: stops after this step\n".encode())
        if self._is_at_once:
            raise TrainingStopped
