"""Folders that cannot be written to, and disks that are full."""

import shutil

import pytest

from tests.ranks import ROOT, Script

from .conftest import check_checkpoint, check_error

TWO_CHECKPOINTS = ["SOLVER.CHECKPOINT_PERIOD", "1"]


def test_below_a_file(train_net, overrides, tmp_path):
    (tmp_path / "file").write_text("something of the user's")
    extra = ["OUTPUT_DIR", str(tmp_path / "file" / "output")]
    error = train_net("quickstart/seesaw.yaml", *overrides, *extra)
    check_error(error, "Not a directory: .*file/output")
    assert (tmp_path / "file").read_text() == "something of the user's"


def test_read_only(train_net, overrides, tmp_path, mount):
    mount(tmp_path / "output", "ro,size=1m")
    check_error(
        train_net("quickstart/seesaw.yaml", *overrides), "Read-only file system: .*/output/"
    )


def test_full_disk(train_net, overrides, tmp_path, mount):
    mount(tmp_path / "output", "size=2m")  # a checkpoint has 1.2 MB
    error = train_net("quickstart/seesaw.yaml", *overrides, *TWO_CHECKPOINTS)
    check_error(error, "model_0000001.pth: No space .*model_0000000.pth")
    check_checkpoint(tmp_path / "output" / "model_0000000.pth", 1)
    names = [path.name for path in (tmp_path / "output").iterdir() if ".pth" in path.name]
    assert names == ["model_0000000.pth"]
    assert (tmp_path / "output" / "last_checkpoint").read_text() == "model_0000000.pth"


def test_deleted(train_net, overrides, tmp_path, after_step):
    after_step(2, lambda: shutil.rmtree(tmp_path / "output"))
    error = train_net("quickstart/seesaw.yaml", *overrides)
    check_error(error, r"OUTPUT_DIR|output/model_final.pth")


@pytest.mark.slow
def test_second_run(train_net, overrides, tmp_path, after_step):
    ended = []
    arguments = ["--config-file", ROOT / "configs/quickstart/seesaw.yaml", "--resume", *overrides]
    after_step(2, lambda: ended.append(Script("train_net.py", *arguments).communicate()))
    assert train_net("quickstart/seesaw.yaml", "--resume", *overrides) is None
    ((status, _, errors),) = ended
    assert status == 1
    check_error(errors.splitlines()[-1], "OUTPUT_DIR.*another")
    check_checkpoint(tmp_path / "output" / "model_final.pth", 3)


def test_earlier_run(train_net, overrides, tmp_path):
    assert train_net("quickstart/seesaw.yaml", *overrides) is None
    before = modified(tmp_path / "output")
    error = train_net("quickstart/eql.yaml", *overrides)
    check_error(error, r"OUTPUT_DIR .*output has checkpoints of an earlier run; give --resume")
    assert modified(tmp_path / "output") == before


def modified(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
