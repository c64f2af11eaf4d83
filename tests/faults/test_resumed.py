"""What can have happened to a run before it is resumed."""

import json
import os
import shutil
from pathlib import Path
from signal import SIGTERM, raise_signal

import pytest

from eql_seesaw.engine.stop_signals import STOPPED
from eql_seesaw.evaluation import LongTailLVISEvaluator

from .conftest import check_checkpoint, check_error, own_annotations, own_images

pytestmark = pytest.mark.slow

RUN = ["quickstart/seesaw.yaml"]
RESUME = [*RUN, "--resume"]
LONGER = ["SOLVER.MAX_ITER", "5"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Folder that keeps the run to resume for the next test."""
    return tmp_path_factory.mktemp("finished") / "output"


@pytest.fixture
def finished(train_net, overrides, symbols, tmp_path, kept):
    """
    Overrides of a run of 3 steps that is done, with annotations of its own; and its folder. It was
    started with --resume, with nothing there to resume.
    """
    settings = [*overrides, *own_annotations(symbols, tmp_path / "train.json")]
    output = tmp_path / "output"
    if not kept.exists():
        assert train_net(*RESUME, *settings, "SOLVER.CHECKPOINT_PERIOD", "1") is None
        output.rename(kept)
    # Checkpoints are replaced, never written into.
    shutil.copytree(kept, output, copy_function=copy_or_link)
    return settings, output


def copy_or_link(source, target):
    (os.link if source.endswith(".pth") else shutil.copy2)(source, target)


def test_changed_annotations(train_net, finished, symbols, tmp_path):
    settings, output = finished
    before = (output / "model_final.pth").stat().st_mtime_ns
    own_annotations(symbols, tmp_path / "train.json", lambda content: content["annotations"].pop())
    error = train_net(*RESUME, *settings, *LONGER)
    check_error(error, "symbols_train|train.json")
    check_error(error, "RESUME_CHANGED")
    assert (output / "model_final.pth").stat().st_mtime_ns == before
    assert train_net(*RESUME, *settings, *LONGER, "SOLVER.RESUME_CHANGED", "True") is None
    check_checkpoint(output / "model_final.pth", 5)


def test_renamed_class(train_net, finished, symbols, tmp_path):
    settings, _ = finished

    def rename(content):
        content["categories"][2]["name"] = "renamed"

    own_annotations(symbols, tmp_path / "train.json", rename)
    # In the validation set too, or that is what is reported.
    content = json.loads((symbols / "symbols_val.json").read_text())
    name = content["categories"][2]["name"]
    rename(content)
    (tmp_path / "val.json").write_text(json.dumps(content))
    val = ["DATASETS.REGISTER.symbols_val.JSON", str(tmp_path / "val.json")]
    error = train_net(*RESUME, *settings, *val, *LONGER)
    check_error(error, f"other classes: '{name}', where here it is 'renamed'")


def test_nothing_to_resume(finished):
    _, output = finished
    check_checkpoint(output / "model_final.pth", 3)
    assert "Starting training from iteration 0" in (output / "log.txt").read_text()


def test_interrupted_evaluation(train_net, finished, tmp_path, monkeypatch):
    settings, undisturbed = finished
    output = tmp_path / "interrupted"
    settings = [*settings, "OUTPUT_DIR", str(output)]
    with monkeypatch.context() as patch:
        patch.setattr(LongTailLVISEvaluator, "evaluate", lambda *_: raise_signal(SIGTERM))
        assert train_net(*RUN, *settings) == STOPPED
    folder = Path("inference", "symbols_val")
    assert not (output / folder).exists()
    assert train_net(*RESUME, *settings) is None
    for name in ("per_category.csv", "lvis_instances_results.json"):
        assert (output / folder / name).read_bytes() == (undisturbed / folder / name).read_bytes()


def test_deleted_images(train_net, overrides, symbols, tmp_path, after_step):
    extra = own_images(symbols, tmp_path / "images")
    extra += ["SOLVER.MAX_ITER", "30", "SOLVER.STEPS", "(20,)", "SOLVER.CHECKPOINT_PERIOD", "2"]
    extra += ["DATALOADER.NUM_WORKERS", "1"]

    def delete():
        for path in (tmp_path / "images").iterdir():
            path.unlink()

    after_step(2, delete)
    error = train_net(*RUN, *overrides, *extra)
    check_error(error, r"image \d+, \S+/images/\S+: .*No such file")
    check_checkpoint(tmp_path / "output" / "model_0000001.pth", 2)
    assert not (tmp_path / "output" / "model_final.pth").exists()
