"""The batch file, with stand-ins for srun and scontrol."""

import subprocess

import pytest

from tests.engine.conftest import ROOT

BATCH_FILE = ROOT / "docs" / "train.slurm"


@pytest.fixture
def run_job(tmp_path):
    """``run_job(status)`` runs it with an srun that ends so; its status and the calls it made."""

    def run(status):
        calls = tmp_path / "calls"
        for name, ending in (("srun", status), ("scontrol", 0)):
            script = tmp_path / name
            script.write_text(f'#!/bin/bash\necho {name} "$@" >> {calls}\nexit {ending}\n')
            script.chmod(0o755)
        environment = {
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "SLURM_JOB_ID": "1234",
            "SLURM_SUBMIT_DIR": str(tmp_path),
        }
        arguments = ["--config-file", "a file.yaml", "SEED", "1"]
        process = subprocess.run(
            ["bash", BATCH_FILE, *arguments], env=environment, capture_output=True, text=True
        )
        return process.returncode, calls.read_text().splitlines()

    return run


SRUN = (
    "srun --kill-on-bad-exit=0 --wait=60 python train_net.py --resume --config-file a file.yaml "
    "SEED 1"
)


def test_stopped_job_is_requeued(run_job):
    assert run_job(75) == (0, [SRUN, "scontrol requeue 1234"])


@pytest.mark.parametrize("status", [0, 1, 137])
def test_other_ends_are_final(run_job, status):
    assert run_job(status) == (status, [SRUN])


def test_slurm_reads_the_options():
    """They count only before the first command."""
    lines = BATCH_FILE.read_text().splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    options = [line for line in lines if line.startswith("#SBATCH")]
    assert options == [line for line in lines[:first_command] if line.startswith("#SBATCH")]
    for option in ("--signal=USR1@300", "--ntasks-per-node=8", "--requeue"):
        assert any(line.split()[1] == option for line in options)
