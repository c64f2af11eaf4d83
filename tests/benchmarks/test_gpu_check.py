import os
import re
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.gpu_check import FOLDER, run_part_apart

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_part_passes_on_a_cpu(tmp_path):
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_check", "--quick"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
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
