"""Training a table's rows, one after another or side by side."""

import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import NamedTuple, TextIO

from .plan import missing_files, where_files_come_from
from .run import Run

TRAIN_LOG = "train_net.txt"
# For a training that is interrupted to finish its step and save.
SECONDS_TO_END = 60
SECONDS_BETWEEN_LOOKS = 0.1


class Started(NamedTuple):
    """A process that trains; its name is for the lines that tell of it."""

    process: subprocess.Popen
    name: str
    time: float


def run_all(
    runs: Sequence[Run], jobs: int, num_gpus: int, images_per_batch: int | None
) -> list[str]:
    """
    Train the runs of :func:`select_runs` that have no finished result, ``jobs`` at a time, each as
    soon as its inputs are there; go on after one that fails. An interruption ends the trainings.

    Returns:
        One line for each run that failed or could not be started.

    Raises:
        ValueError, FileNotFoundError: a config is wrong, or data are missing; nothing was started.
    """
    active: dict[Run, Started] = {}
    with _only_one(os.path.join(runs[0].output, runs[0].scale)) as lock:
        looks = [(run, run.look()) for run in runs]
        num_finished = sum(found.metrics is not None for _, found in looks)
        print(f"{len(runs)} runs, {num_finished} of them finished", flush=True)
        waiting, commands, failures = [], {}, {}
        for run, found in looks:
            if found.conflict:
                anew = f"move {run.folder} away to train it anew"
                failures[run.folder] = f"{run}: {found.reason}; {anew}"
            elif found.metrics is None:
                waiting.append(run)
                batch = run.planned_batch(found, num_gpus, images_per_batch)
                commands[run.folder] = [sys.executable, *run.command(num_gpus, batch)]
                for path in missing_files(run):
                    raise FileNotFoundError(
                        f"{run}: no such file or folder: {path}; {where_files_come_from(run)}"
                    )
        total = len(waiting)
        try:
            while waiting or active:
                unfinished = {run.folder for run in (*waiting, *active)}
                for run in list(waiting):
                    inputs = {input_run.folder for _, input_run, _ in run.inputs}
                    if inputs & failures.keys():
                        failures[run.folder] = f"{run}: not started, its input failed"
                        waiting.remove(run)
                    elif not inputs & unfinished and len(active) < jobs:
                        waiting.remove(run)
                        name = f"[{total - len(waiting)}/{total}] {run}"
                        active[run] = _start(run, commands[run.folder], name, lock)
                time.sleep(SECONDS_BETWEEN_LOOKS)
                for run, started in list(active.items()):
                    if started.process.poll() is not None:
                        del active[run]
                        if failure := _report_end(run, started):
                            failures[run.folder] = failure
        except BaseException:
            _end([started.process for started in active.values()])
            raise
    return list(failures.values())


def _start(run: Run, command: list[str], name: str, lock: TextIO) -> Started:
    run.prepare_folder()
    threads = {"OMP_NUM_THREADS": "1"} if run.scale == "mini" else {}
    with open(os.path.join(run.folder, TRAIN_LOG), "a") as log:
        print(f"$ {shlex.join(command)}", file=log, flush=True)
        # Sessions of their own, so that an interruption reaches each of them once, through us. They
        # hold the lock too, should they outlive us.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **threads},
            start_new_session=True,
            pass_fds=[lock.fileno()],
        )
    verb = "resumed" if "--resume" in command else "started"
    print(f"{name} {verb}; how far it is: tail -f {shlex.quote(log.name)}", flush=True)
    return Started(process, name, time.monotonic())


def _report_end(run: Run, started: Started) -> str:
    """Say how a training ended; returns a line for one that failed, or ""."""
    status, log = started.process.returncode, os.path.join(run.folder, TRAIN_LOG)
    duration = timedelta(seconds=round(time.monotonic() - started.time))
    found = run.look()
    if found.metrics is not None and status == 0:
        print(f"{started.name} finished in {duration}", flush=True)
        return ""
    reason = found.reason
    if status < 0:
        reason = f"killed by signal {-status}"
    elif status:
        with open(log, errors="replace") as f:
            *_, reason = (line.strip() for line in f if line.strip())
    print(f"{started.name} FAILED after {duration}: {reason}", flush=True)
    return f"{run}: {reason} (see {log})"


def _end(processes: Sequence[subprocess.Popen]) -> None:
    # Not SIGINT, which a training ignores if a script has started us with `&`.
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                # The whole session: workers, and one process for each GPU.
                os.killpg(process.pid, sign)
        end = time.monotonic() + SECONDS_TO_END
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))


@contextlib.contextmanager
def _only_one(folder: str) -> Iterator[TextIO]:
    """Two commands must not train in the same folders."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, ".lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another `python -m eql_seesaw.tables run` is training in {folder}; wait for it, "
                "or give another --output"
            ) from None
        except OSError:
            pass  # a file system that has no locks
        yield lock
