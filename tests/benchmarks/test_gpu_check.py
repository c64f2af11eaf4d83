import os
import re
import signal
from argparse import Namespace

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check import FOLDER, run_part_apart


@pytest.mark.slow
def test_every_part_passes_on_a_cpu(tmp_path, monkeypatch):
    """Of the scripts that it runs too, one; the others have their own test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["gpu_check", "--quick"])
    monkeypatch.setattr(gpu_check, "TABLES", ["train_step"])
    gpu_check.main()
    markdown = (tmp_path / FOLDER / "gpu_check.md").read_text()
    names = re.findall(r"^\| (\w+) +\| pass ", markdown, flags=re.MULTILINE)
    assert {"losses_float16", "host_synchronisation", "killed_and_resumed", "quickstart"} <= {
        *names
    }
    assert "### Training step" in markdown and "time ratio" in markdown


def fail(args, folder):
    raise ValueError("seesaw differs\nin detail")


def die(args, folder):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    "run, note",
    [(fail, "ValueError: seesaw differs"), (die, f"ended with status {-signal.SIGKILL}")],
)
def test_failure_of_a_part_is_a_row(tmp_path, monkeypatch, run, note):
    monkeypatch.chdir(tmp_path)
    _, result, _, found = run_part_apart(Namespace(device="cpu"), "part", run)
    assert result == "FAIL" and note in found
