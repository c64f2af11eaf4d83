"""Training a table's rows, one after another or side by side."""

import contextlib
import dataclasses
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TextIO

from ..engine.checkpoint_files import has_checkpoint
from .batch import batch_settings
from .plan import missing_files, run_batch, where_files_come_from
from .run_state import read_run_state
from .table_runs import TableRun, expected_config, train_command, write_config_file

TRAIN_LOG = "train_net.txt"
# For a training that is interrupted to finish its step and save.
SECONDS_TO_END = 60
SECONDS_BETWEEN_LOOKS = 0.1


@dataclasses.dataclass
class _Process:
    run: TableRun
    process: subprocess.Popen
    start: float
    number: str


def run_all(
    runs: Sequence[TableRun], jobs: int, num_gpus: int, images_per_batch: int | None
) -> list[str]:
    """
    Train the runs that have no finished result; go on after one that fails.

    Args:
        runs: inputs before the runs that need them.
        jobs: trainings at a time.
        num_gpus: of each training at full scale.
        images_per_batch: over all GPUs; None for the default.

    Returns:
        One line for each run that failed or could not be started.

    Raises:
        ValueError, FileNotFoundError: a config is wrong, or data are missing; nothing was started.
        KeyboardInterrupt: interrupted; the trainings were ended.
    """
    with _only_one(os.path.join(runs[0].output, runs[0].scale)) as lock:
        states = {run.folder: read_run_state(run) for run in runs}
        finished = {folder for folder, state in states.items() if state.metrics is not None}
        print(f"{len(runs)} runs, {len(finished)} of them finished", flush=True)
        failures = {}
        for run in runs:
            state = states[run.folder]
            if state.conflict:
                reason = f"{state.reason}; move {run.folder} away to train it anew"
                failures[run.folder] = f"{run}: {reason}"
        waiting = [run for run in runs if run.folder not in finished | failures.keys()]
        configs = {run.folder: expected_config(run) for run in waiting}
        commands = {}
        for run in waiting:
            cfg, state = configs[run.folder], states[run.folder]
            _check_files(run, cfg, finished)
            commands[run.folder] = _command(run, cfg, state, num_gpus, images_per_batch)
        _train(waiting, commands, jobs, failures, lock)
    return list(failures.values())


def _train(
    waiting: list[TableRun],
    commands: dict[str, list[str]],
    jobs: int,
    failures: dict[str, str],
    lock: TextIO,
) -> None:
    total = len(waiting)
    active: list[_Process] = []
    try:
        while waiting or active:
            unfinished = {run.folder for run in waiting} | {job.run.folder for job in active}
            for run in [run for run in waiting if len(active) < jobs]:
                inputs = {input_run.folder for _, input_run, _ in run.inputs}
                if inputs & failures.keys():
                    failures[run.folder] = f"{run}: not started, its input failed"
                    waiting.remove(run)
                elif not inputs & unfinished and len(active) < jobs:
                    waiting.remove(run)
                    number = f"{total - len(waiting)}/{total}"
                    active.append(_start(run, commands[run.folder], number, lock))
            time.sleep(SECONDS_BETWEEN_LOOKS)
            for job in [job for job in active if job.process.poll() is not None]:
                active.remove(job)
                _report_end(job, failures)
    except BaseException:
        _end([job.process for job in active])
        raise


def _start(run, command, number, lock):
    write_config_file(run)
    os.makedirs(run.folder, exist_ok=True)
    environment = dict(os.environ)
    if run.scale == "mini":
        environment["OMP_NUM_THREADS"] = "1"
    with open(os.path.join(run.folder, TRAIN_LOG), "a") as log:
        print(f"$ {shlex.join(command)}", file=log, flush=True)
        # Sessions of their own, so that an interruption reaches each of them once, through us. They
        # hold the lock too, should they outlive us.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            pass_fds=[lock.fileno()],
        )
    verb = "resumed" if "--resume" in command else "started"
    print(f"[{number}] {run} {verb}; how far it is: tail -f {shlex.quote(log.name)}", flush=True)
    return _Process(run, process, time.monotonic(), number)


def _report_end(job, failures):
    run, status = job.run, job.process.returncode
    log = os.path.join(run.folder, TRAIN_LOG)
    duration = timedelta(seconds=round(time.monotonic() - job.start))
    state = read_run_state(run)
    if status == 0 and state.metrics is not None:
        print(f"[{job.number}] {run} finished in {duration}", flush=True)
        return
    if status < 0:
        reason = f"killed by signal {-status}"
    else:
        reason = _last_line(log) if status else state.reason
    print(f"[{job.number}] {run} FAILED after {duration}: {reason}", flush=True)
    failures[run.folder] = f"{run}: {reason} (see {log})"


def _end(processes):
    for sign in (signal.SIGINT, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                # The whole session: workers, and one process for each GPU.
                os.killpg(process.pid, sign)
        end = time.monotonic() + SECONDS_TO_END
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))


def _command(run, cfg, state, num_gpus, images_per_batch):
    batch = run_batch(run, cfg, state, num_gpus, images_per_batch)
    resume = has_checkpoint(run.folder)
    return [sys.executable, *train_command(run, num_gpus, resume, batch_settings(cfg, batch))]


def _check_files(run, cfg, finished):
    """Raises where a file will not be there, as soon as the inputs are trained."""
    missing = missing_files(run, cfg)
    if missing:
        raise FileNotFoundError(
            f"{run}: no such file or folder: {missing[0]}; {where_files_come_from(run.scale)}"
        )
    for _, input_run, file in run.inputs:
        path = os.path.join(input_run.folder, file)
        if input_run.folder in finished and not os.path.exists(path):
            raise FileNotFoundError(
                f"{run}: no such file: {path}, though {input_run} is finished; move "
                f"{input_run.folder} away to train it anew"
            )


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
        yield lock


def _last_line(path):
    with open(path, errors="replace") as f:
        lines = [line.strip() for line in f if line.strip()]
    return lines[-1]
