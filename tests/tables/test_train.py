import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eql_seesaw.config import load_config
from eql_seesaw.tables.run import Run
from tests.engine.conftest import overrides, symbols  # noqa: F401
from tests.tables.conftest import ROOT, add_to, finish, prepare_training, runs_of


def calls():
    path = Path("calls.txt")
    return path.read_text().splitlines() if path.exists() else []


def test_trains_all_rows_with_inputs_in_order(run_command):
    runs = runs_of("small", seeds=2)
    prepare_training(runs.values())
    status, text = run_command("run", "small", "--rows", "retrain,seesaw", "--jobs", 3)
    assert status == 0, text
    # Seesaw's two seeds and retrain, with the row it needs.
    assert text.count(" started;") == text.count(" finished in 0:00:0") == 4
    assert len(calls()) == 4 and all(line.startswith("1 --config-file") for line in calls())
    order = [line.split()[2] for line in calls()]
    assert order.index("configs/small/softmax_ce.yaml") < order.index("configs/small/retrain.yaml")
    log = Path(runs["ce", 1].folder, "train_net.txt").read_text()
    assert log.startswith("$ ") and "train_net.py --config-file configs/small" in log

    status, text = run_command("run", "small")
    assert status == 0 and "4 runs, 4 of them finished" in text and len(calls()) == 4


def test_goes_on_after_a_failing_row_and_then_resumes_it(run_command, monkeypatch):
    runs = runs_of("small", seeds=2)
    prepare_training(runs.values())
    monkeypatch.setenv("FAIL", "softmax_ce")
    monkeypatch.setenv("KILLED", "seesaw/seed_2")
    status, text = run_command("run", "small", "--jobs", 1)
    assert status == 1 and "failed: small/seesaw seed 2: killed by signal 9 (see " in text
    log = os.path.join(runs["ce", 1].folder, "train_net.txt")
    assert f"failed: small/ce seed 1: error: no luck (see {log})" in text
    assert "failed: small/retrain seed 1: not started, its input failed" in text
    assert text.count(" finished in ") == 1
    monkeypatch.delenv("FAIL")
    monkeypatch.delenv("KILLED")
    status, text = run_command("run", "small", "--jobs", 1)
    assert status == 0 and "small/ce seed 1 resumed" in text
    assert ["--resume" in line for line in calls()] == [False] * 3 + [True, False, True]


def test_weights_to_start_from_in_miniature_are_trained_first(run_command):
    """Though they are not evaluated."""
    runs = runs_of("big", "mini", seeds=2)
    start = runs_of("miniature")["pretrain", 1]
    prepare_training([start, *runs.values()])
    arguments = ("run", "big", "--scale", "mini", "--seeds", 2, "--jobs", 4)
    status, text = run_command(*arguments)
    assert status == 0, text
    assert "pretrain.yaml" in calls()[0] and len(calls()) == 5
    assert text.index("pretrain seed 1 finished") < text.index("big/ce seed 1 started")
    assert "# miniature/pretrain seed 1: finished" in run_command("plan", "miniature")[1]


def test_folders_are_looked_into_under_the_lock(run_command, monkeypatch):
    """Else what another command has just begun would be trained twice in one folder."""
    prepare_training(runs_of("small").values())
    look = Run.look

    def look_locked(run):
        with open("output/tables/mini/.lock", "w") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return look(run)

    monkeypatch.setattr(Run, "look", look_locked)
    assert run_command("run", "small", "--rows", "ce")[0] == 0


def test_ends_without_a_result_is_a_failure(run_command):
    runs = runs_of("small")
    prepare_training(runs.values())
    text = Path("dumps.json").read_text().replace('"iteration": 100', '"iteration": 50')
    Path("dumps.json").write_text(text)
    status, text = run_command("run", "small", "--rows", "ce")
    assert status == 1 and "small/ce seed 1: at iteration 51 of 100 (see " in text


def test_folder_of_another_config_is_left_alone(run_command):
    run = runs_of("small")["ce", 1]
    finish(run, changes=("SOLVER.GAMMA", 0.5), bbox_AP=1.0)
    status, text = run_command("run", "small", "--rows", "retrain")
    assert status == 1 and calls() == []
    difference = "its config differs in SOLVER.GAMMA: 0.5 there, 0.1 expected"
    assert f"small/ce seed 1: {difference}; move {run.folder} away to train it anew" in text
    assert "failed: small/retrain seed 1: not started, its input failed" in text


def test_wrong_config_or_missing_data_before_anything_starts(run_command, project):
    (project / "train.json").unlink()
    status, _ = run_command("run", "small")
    assert status == (
        "error: small/ce seed 1: no such file or folder: train.json; "
        "`make miniature_data` generates the miniature's data"
    )
    add_to("configs/small/seesaw.yaml", "MODEL: {WEIGHTS: mine.pth}\n")
    status, _ = run_command("run", "small", "--rows", "seesaw")
    assert status.startswith("error: small/seesaw seed 1: no such file or folder: mine.pth;")
    assert "Missing: train.json, mine.pth;" in run_command("plan", "small")[1]
    add_to("configs/small/softmax_ce.yaml", "MODEL: {ROI_BOX_HEAD: {CLS_LOSS: sesaw}}\n")
    status, _ = run_command("run", "small")
    assert status.startswith("error: small/ce: MODEL.ROI_BOX_HEAD.CLS_LOSS is 'sesaw'")
    assert calls() == [] and os.listdir("output/tables/mini") == [".lock"]


def test_full_scale(run_command, two_gpus):
    runs = runs_of("big")
    prepare_training(runs.values(), batch=4)
    status, text = run_command("run", "big", "--rows", "ce")
    assert status == 0, text
    assert "--num-gpus 2" in calls()[0] and "SOLVER.IMS_PER_BATCH 4" in calls()[0]
    assert not calls()[0].startswith("1 ") or os.environ.get("OMP_NUM_THREADS") == "1"
    status, _ = run_command("run", "big", "--gpus", 3)
    assert status.startswith("error: this machine has 2 GPU(s), and 3 are asked for;")
    status, _ = run_command("run", "big", "--rows", "p", "--batch", 3)
    assert status.startswith("error: big/p seed 1: 2 GPUs cannot share 3 images per batch")


def test_resumed_run_keeps_its_batch(run_command, two_gpus, monkeypatch):
    prepare_training(runs_of("big").values(), batch=6)
    monkeypatch.setenv("FAIL", "big")
    assert run_command("run", "big", "--rows", "ce", "--batch", 6)[0] == 1
    monkeypatch.delenv("FAIL")
    assert run_command("run", "big", "--rows", "ce")[0] == 0
    assert "--resume" in calls()[-1] and "SOLVER.IMS_PER_BATCH 6" in calls()[-1]


INTERRUPTED = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from eql_seesaw.tables import table
from eql_seesaw.tables.__main__ import main
table.DATA = Path("tables")
sys.exit(main(["run", "small", "--rows", "ce"]))
"""


@pytest.mark.slow
def test_interruption_ends_the_trainings(run_command):
    prepare_training(runs_of("small").values())
    os.mkfifo("hang")
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    with open("hang") as fifo:  # waits for the training to open it
        assert fifo.readline() == "hanging\n"
        # While one trains, another may not.
        status, _ = run_command("run", "small", "--rows", "ce")
        assert status.startswith("error: another `python -m eql_seesaw.tables run` is training in")
        process.send_signal(signal.SIGTERM)
        assert fifo.read() == ""  # the training is gone
    output, _ = process.communicate()
    assert process.returncode == 130
    assert b"interrupted; the same command goes on from here" in output
    os.unlink("hang")
    status, text = run_command("run", "small", "--rows", "ce")
    assert status == 0 and "small/ce seed 1 resumed" in text


@pytest.mark.slow
def test_a_real_training(run_command, project, overrides):  # noqa: F811
    """By the real train_net.py; then collected."""
    (project / "train_net.py").unlink()
    (project / "train_net.py").symlink_to(ROOT / "train_net.py")
    cfg = load_config(str(ROOT / "configs/quickstart/softmax_ce.yaml"), overrides)
    (project / "configs/small/softmax_ce.yaml").write_text(cfg.dump())
    status, text = run_command("run", "small", "--rows", "ce")
    assert status == 0, text
    status, text = run_command("collect", "small")
    assert status == 0 and "| CE " in text and "seesaw seed 2, retrain seed 1: not run" in text
    assert (project / "output/tables/mini/small.png").exists()
