"""Who may write into OUTPUT_DIR at the same time."""

import fcntl

import pytest

from eql_seesaw.engine import hold_output_dir
from eql_seesaw.engine.output_dir import LOCK


def hold(folder, eval_only):
    return hold_output_dir(str(folder), eval_only)


@pytest.mark.parametrize("first, second, may", [(0, 0, False), (0, 1, True), (1, 0, True)])
def test_two_at_once(tmp_path, caplog, monkeypatch, first, second, may):
    monkeypatch.setattr("eql_seesaw.engine.output_dir.SECONDS_TO_UNLOCK", 0.1)
    with hold(tmp_path, first):
        if may:
            with hold(tmp_path, second):
                pass
        else:
            with pytest.raises(ValueError, match="another training is running there"):
                with hold(tmp_path, second):
                    pass
    # An evaluation beside a training is told.
    assert ("evaluates into the same folder" in caplog.text) == (second == 1)
    # Over, the folder is free.
    with hold(tmp_path, False):
        assert (tmp_path / LOCK).stat().st_size == 0
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_lock_that_is_let_go_in_time(tmp_path):
    """As by the loading processes of a training that was killed, when they notice."""
    lock = open(tmp_path / LOCK, "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    lock.close()
    with hold(tmp_path, False):
        pass
