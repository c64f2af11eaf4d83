"""Data loading processes, and the signals and deaths around them."""

import itertools
import multiprocessing
import os
import signal
import time

import pytest

from eql_seesaw.data.train_loader import build_train_loader, leave_signals_to_parent
from tests.data.small_images import make_cfg, write_images

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


def load_images(how, dataset_dicts, pipe):
    """A process that loads images until told to stop, and tells who works and what it received."""
    os.setsid()
    received, own_id = set(), os.getpid()

    def note(number, frame):
        if os.getpid() != own_id:
            os._exit(1)  # a worker that did not leave it to this process
        received.add(int(number))

    for number in SIGNALS:
        signal.signal(number, note)

    def mapper(dataset_dict):
        if how == "stuck":
            time.sleep(1000)
        # Much to send: whoever does not fetch it keeps the worker waiting.
        return {**dataset_dict, "payload": "x" * 1_000_000}

    passes = iter(build_train_loader(make_cfg(NUM_WORKERS=2), dataset_dicts, mapper))
    if how != "stuck":
        next(passes)
    pipe.send([process.pid for process in multiprocessing.active_children()])
    while not pipe.poll(0.01):
        if how == "loads":
            next(passes)
    for _ in range(20 if how == "loads" else 0):
        next(passes)
    pipe.send(sorted(received))


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pids, seconds=20):
    deadline = time.monotonic() + seconds
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, f"still there: {[*filter(is_alive, pids)]}"
        time.sleep(0.02)


@pytest.fixture
def loading(tmp_path):
    """Starts such a process in a process group of its own; gives it, its workers and a pipe."""
    started = []
    dataset_dicts = write_images(tmp_path, 12)

    def start(how):
        context = multiprocessing.get_context("fork")
        pipe, its_pipe = context.Pipe()
        process = context.Process(target=load_images, args=(how, dataset_dicts, its_pipe))
        process.start()
        started.append(process)
        workers = pipe.recv()
        assert len(workers) == 2 and all(map(is_alive, workers))
        return process, workers, pipe

    yield start
    for process in started:
        process.kill()
        process.join()


def test_signals_to_the_group_reach_only_the_main_process(loading):
    process, workers, pipe = loading("loads")
    for number in SIGNALS:
        os.killpg(process.pid, number)
    pipe.send("stop")
    assert pipe.recv() == sorted(map(int, SIGNALS))
    process.join()
    assert process.exitcode == 0
    wait_until_gone(workers)


def test_signals_to_workers_do_nothing(loading):
    process, workers, pipe = loading("loads")
    for worker, number in itertools.product(workers, SIGNALS * 2):
        os.kill(worker, number)
    pipe.send("stop")
    assert pipe.recv() == []
    process.join()
    assert process.exitcode == 0


@pytest.mark.parametrize("how", ["waits", "stuck"])
def test_workers_end_with_the_process(loading, how):
    process, workers, pipe = loading(how)
    pipe.send("stop")
    process.join(30)
    assert process.exitcode == 0
    wait_until_gone(workers)


@pytest.mark.parametrize("how", ["loads", "stuck"])
def test_workers_end_when_the_process_is_killed(loading, how):
    process, workers, _ = loading(how)
    process.kill()
    process.join()
    wait_until_gone(workers)


def test_worker_that_begins_after_its_process_was_killed_ends():
    context = multiprocessing.get_context("fork")
    pipe, its_pipe = context.Pipe()
    process = context.Process(target=start_late_worker, args=(its_pipe,))
    process.start()
    worker = pipe.recv()
    process.kill()
    process.join()
    pipe.send("begin")
    wait_until_gone([worker])


def start_late_worker(pipe):
    worker = multiprocessing.get_context("fork").Process(target=begin_late, args=(pipe,))
    worker.start()
    pipe.send(worker.pid)
    worker.join()


def begin_late(pipe):
    pipe.recv()
    leave_signals_to_parent(0)
    signal.pause()
