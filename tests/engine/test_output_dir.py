"""Who may write into OUTPUT_DIR at the same time."""

import multiprocessing
import time

import pytest

from eql_seesaw.engine import hold_output_dir
from eql_seesaw.engine.output_dir import LOCK


def hold_and_say(folder, eval_only, connection):
    """In a process of its own, which a child outlives, as those that load data do."""
    try:
        with hold_output_dir(folder, eval_only):
            multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,)).start()
            connection.send("")
            time.sleep(60)
    except ValueError as error:
        connection.send(str(error))


@pytest.fixture
def start(tmp_path):
    """``start(eval_only)`` holds the folder in a process; it, and what it says."""
    started = []

    def start_process(eval_only):
        context = multiprocessing.get_context("fork")
        received, sent = context.Pipe(duplex=False)
        started.append(context.Process(target=hold_and_say, args=(tmp_path, eval_only, sent)))
        started[-1].start()
        return started[-1], received.recv()

    yield start_process
    for process in started:
        process.kill()


@pytest.mark.parametrize("first, second, may", [(0, 0, False), (0, 1, True), (1, 0, True)])
def test_two_at_once(tmp_path, start, first, second, may):
    process, _ = start(first)
    _, said = start(second)
    assert may == (said == "") and may != ("another training is running there" in said)
    process.kill()
    process.join()
    if not may:
        assert start(second)[1] == ""
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    assert (tmp_path / LOCK).stat().st_size == 0
