"""The command line, as users type it."""

import csv
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from PIL import Image

from eql_seesaw.engine import load_config
from eql_seesaw.losses import LOSSES
from tests.engine.conftest import ROOT, last_metrics
from tests.ranks import Script

slow = pytest.mark.slow


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(loss, marks=[] if loss in ("softmax_ce", "eql", "seesaw") else slow)
        for loss in LOSSES
    ],
)
def test_every_loss_trains_and_evaluates_by_one_key(train_net, overrides, tmp_path, loss):
    error = train_net("quickstart/seesaw.yaml", *overrides, "MODEL.ROI_BOX_HEAD.CLS_LOSS", loss)
    assert error is None
    output = tmp_path / "output"
    metrics = last_metrics(output)
    names = {"AP", "AP50", "AP75", "APs", "APr", "APc", "APf"}
    for task in ("bbox", "segm"):
        assert {f"{task}/{name}" for name in names} <= set(metrics)
        assert all(0 <= metrics[f"{task}/{name}"] <= 100 for name in names)
    assert (output / "model_final.pth").exists() and (output / "model_best.pth").exists()
    assert any(name.startswith("events.out.tfevents") for name in os.listdir(output))
    inference = output / "inference" / "symbols_val"
    Image.open(inference / "predictions.png").verify()
    rows = list(csv.DictReader(open(inference / "per_category.csv")))
    assert [row["train images"] for row in rows] == ["1", "110", "8", "20", "105", "40"]
    groups = ["rare", "frequent", "rare", "common", "frequent", "common"]
    assert [row["group"] for row in rows] == groups


def test_quickstart_configs_differ_only_in_the_loss():
    dumps = {}
    for loss in ("softmax_ce", "sigmoid_ce", "eql", "softmax_eql", "seesaw"):
        cfg = load_config(quickstart(f"{loss}.yaml"), [])
        assert cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS == loss
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS = ""
        dumps[loss] = cfg.dump()
    assert len(set(dumps.values())) == 1


def test_log_says_what_decides_the_results(train_net, overrides, tmp_path):
    assert train_net("quickstart/eql.yaml", *overrides) is None
    log = (tmp_path / "output" / "log.txt").read_text()
    assert "EqualizationLoss" in log and "6 classes, 6 logits" in log
    assert "2 of 2 rare, 2 of 2 common, 0 of 2 frequent" in log
    assert "class-agnostic boxes" in log and "class-agnostic masks" in log
    assert "one process, on cpu" in log
    assert "a step is 2 images: 1 process(es) x 1 pass(es) x 2 image(s); learning rate" in log


def test_resume_and_evaluate_only(train_net, overrides, tmp_path):
    """Seesaw's counts go on where they were; --eval-only repeats the numbers, counts untouched."""
    run = ["quickstart/seesaw.yaml", *overrides]
    assert train_net(*run) is None
    output = tmp_path / "output"
    first = torch.load(output / "model_final.pth", weights_only=True)
    assert (
        train_net("quickstart/seesaw.yaml", "--resume", *overrides, "SOLVER.MAX_ITER", "5") is None
    )
    second = torch.load(output / "model_final.pth", weights_only=True)
    assert (first["iteration"], second["iteration"]) == (2, 4)
    key = "roi_heads.box_predictor.loss.cumulative_counts"
    assert 0 < first["model"][key].sum() < second["model"][key].sum()
    recorded = json.load(open(output / "recorded_statistics.json"))
    assert recorded["instance_counts"] == second["model"][key].tolist()

    trained = last_metrics(output)
    before = (output / "model_final.pth").read_bytes()
    assert train_net("quickstart/seesaw.yaml", "--eval-only", "--resume", *overrides) is None
    results = (output / "inference" / "symbols_val" / "per_category.csv").read_text()
    assert (output / "model_final.pth").read_bytes() == before
    weights = ["MODEL.WEIGHTS", str(output / "model_final.pth")]
    assert train_net("quickstart/seesaw.yaml", "--eval-only", *overrides, *weights) is None
    assert (output / "inference" / "symbols_val" / "per_category.csv").read_text() == results
    assert trained["iteration"] == 5


def test_recorded_counts_can_be_used_by_another_run(train_net, overrides, tmp_path):
    assert train_net("quickstart/seesaw.yaml", *overrides) is None
    recorded = tmp_path / "output" / "recorded_statistics.json"
    fixed = [
        *("MODEL.ROI_BOX_HEAD.SEESAW.COUNTS", "fixed", "DATASETS.CLASS_STATISTICS", str(recorded)),
        *("OUTPUT_DIR", str(tmp_path / "second")),
    ]
    assert train_net("quickstart/seesaw.yaml", *overrides, *fixed) is None
    assert "counts=fixed" in (tmp_path / "second" / "log.txt").read_text()


def test_rule_of_annotated_classes_reaches_the_loss(train_net, overrides, tmp_path):
    losses = {}
    for keep in ("True", "False"):
        output = tmp_path / keep
        extra = ["MODEL.ROI_BOX_HEAD.EQL.KEEP_ANNOTATED", keep, "OUTPUT_DIR", str(output)]
        assert train_net("quickstart/eql.yaml", *overrides, *extra) is None
        losses[keep] = json.loads(open(output / "metrics.json").readline())["loss_cls"]
    # The same seed: only the rule differs, and it adds terms.
    assert losses["True"] > losses["False"]


def test_evaluation_without_the_training_set(train_net, overrides, tmp_path):
    assert train_net("quickstart/eql.yaml", *overrides) is None
    inference = tmp_path / "output" / "inference" / "symbols_val"
    results = (inference / "lvis_instances_results.json").read_bytes()
    weights = ["MODEL.WEIGHTS", str(tmp_path / "output" / "model_final.pth")]
    elsewhere = ["DATASETS.REGISTER.symbols_train.JSON", "not_here"]
    elsewhere += ["DATASETS.REGISTER.symbols_train.IMAGES", "not_here"]
    elsewhere += ["OUTPUT_DIR", str(tmp_path / "second")]
    assert train_net("quickstart/eql.yaml", "--eval-only", *overrides, *weights, *elsewhere) is None
    inference = tmp_path / "second" / "inference" / "symbols_val"
    assert (inference / "lvis_instances_results.json").read_bytes() == results


def test_cascade_runs_and_keeps_counts_per_stage(train_net, overrides, tmp_path):
    cascade = ["MODEL.ROI_HEADS.NAME", "LongTailCascadeROIHeads"]
    assert train_net("quickstart/seesaw.yaml", *overrides, *cascade) is None
    model = torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)["model"]
    keys = [key for key in model if key.endswith("cumulative_counts")]
    assert len(keys) == 3 and all(model[key].sum() > 0 for key in keys)
    assert all(
        (tmp_path / "output" / f"recorded_statistics_stage{i}.json").exists() for i in range(3)
    )


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="these are processes without a GPU")
def test_two_processes(overrides, tmp_path):
    """As typed, with processes that import everything."""
    command = [sys.executable, str(ROOT / "train_net.py"), "--num-gpus", "2"]
    command += ["--config-file", quickstart("seesaw.yaml"), *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    output = tmp_path / "output"
    assert "rank 0 of 2 processes" in (output / "log.txt").read_text()
    assert (output / "log.txt.rank1").exists()
    assert set(last_metrics(output)) >= {"bbox/APr", "segm/APf"}


def quickstart(name):
    return str(ROOT / "configs" / "quickstart" / name)


BAD_VALUES = {
    "unknown loss": (["MODEL.ROI_BOX_HEAD.CLS_LOSS", "sesaw"], "CLS_LOSS is 'sesaw'; .*seesaw"),
    "option after the pairs": (["--resume"], "--resume must stand before the KEY VALUE pairs"),
    "key without value": (["SOLVER.MAX_ITER"], "overrides"),
    "wrong number of classes": (
        ["MODEL.ROI_HEADS.NUM_CLASSES", "80"],
        "NUM_CLASSES is 80, but dataset 'symbols_train' has 6",
    ),
    "classes of a test set alone": (
        ["DATASETS.TRAIN", "()", "MODEL.ROI_HEADS.NUM_CLASSES", "80"],
        "NUM_CLASSES is 80, but dataset 'symbols_val' has 6",
    ),
    "float16 on cpu": (
        ["SOLVER.AMP.ENABLED", "True", "MODEL.DEVICE", "cpu"],
        "AMP.ENABLED in float16 needs a GPU, .* 'cpu'; there set SOLVER.AMP.PRECISION bfloat16",
    ),
    "unknown precision": (["SOLVER.AMP.PRECISION", "half"], "'half'; .* float16, bfloat16"),
    "best metric": (["TEST.BEST_METRIC", "segm/ap"], "BEST_METRIC is 'segm/ap'; .*segm/AP"),
    "mask metric without masks": (["MODEL.MASK_ON", "False"], "TEST.BEST_METRIC is 'segm/AP'"),
    "no detections": (["TEST.LVIS_MAX_DETECTIONS", "0"], "LVIS_MAX_DETECTIONS is 0"),
    "normed classifier": (["MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER", "yes"], "auto, true or false"),
    "empty training set": (["DATASETS.TRAIN", "()"], "DATASETS.TRAIN"),
    "nothing to evaluate on": (["DATASETS.TEST", "()"], "DATASETS.TEST is empty"),
    "launching": ([], "--num-machines 2 needs --dist-url"),
    "missing weights": (["MODEL.WEIGHTS", "no_weights.pth"], "cannot read no_weights.pth"),
}

OPTIONS = {
    "nothing to evaluate on": ["--eval-only"],
    "classes of a test set alone": ["--eval-only"],
    "launching": ["--num-machines", "2"],
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_bad_value_is_one_line_and_nothing_is_written(train_net, overrides, tmp_path, case):
    extra, pattern = BAD_VALUES[case]
    options = OPTIONS.get(case, [])
    error = train_net("quickstart/seesaw.yaml", *options, *overrides, *extra)
    check_error(error, pattern)
    if case != "missing weights":
        assert not (tmp_path / "output").exists()


def test_validation_set_of_other_classes(train_net, overrides, symbols, tmp_path):
    content = json.loads((symbols / "symbols_val.json").read_text())
    for category in content["categories"]:
        category["name"] += " of others"
    (tmp_path / "val.json").write_text(json.dumps(content))
    extra = ["DATASETS.REGISTER.symbols_val.JSON", str(tmp_path / "val.json")]
    error = train_net("quickstart/seesaw.yaml", *overrides, *extra)
    check_error(error, "DATASETS.TEST: class 0 is '.* of others' in 'symbols_val'")
    assert not (tmp_path / "output").exists()


def test_weights_that_cannot_be_downloaded(train_net, overrides, monkeypatch):
    def no_network(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr("iopath.common.file_io.download", no_network)
    extra = ["MODEL.WEIGHTS", "detectron2://nowhere/never.pkl"]
    error = train_net("quickstart/seesaw.yaml", *overrides, *extra)
    check_error(error, "cannot read detectron2://nowhere/never.pkl .*not known.; without a network")


def check_error(error, pattern):
    assert error is not None and error.startswith("error: ") and "\n" not in error
    assert re.search(pattern, error), error


@pytest.mark.parametrize(
    "content, pattern, num_workers",
    [
        (None, "No such file", "1"),
        (b"not an image", "identify", "0"),
    ],
)
def test_missing_and_unreadable_images(
    train_net, overrides, symbols, tmp_path, num_workers, content, pattern
):
    images = tmp_path / "images"
    images.mkdir()
    for name in os.listdir(symbols / "train"):
        if content is not None:
            (images / name).write_bytes(content)
    extra = [
        *("DATASETS.REGISTER.symbols_train.IMAGES", str(images)),
        *("DATALOADER.NUM_WORKERS", num_workers),
    ]
    error = train_net("quickstart/seesaw.yaml", *overrides, *extra)
    check_error(error, rf"image \d+, {images}/.*: .*{pattern}")
    written = {path.suffix for path in (tmp_path / "output").iterdir()}
    assert not written & {".pth", ".csv", ".png"}
    assert not (tmp_path / "output" / "recorded_statistics.json").exists()


def test_learning_rate_that_is_far_too_high(train_net, overrides, tmp_path):
    extra = ["SOLVER.BASE_LR", "1e12", "SOLVER.WARMUP_ITERS", "5", "SOLVER.WARMUP_FACTOR", "1e-12"]
    extra += ["SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.MAX_ITER", "30", "SOLVER.STEPS", "(25,)"]
    extra += ["SOLVER.CLIP_GRADIENTS.ENABLED", "False"]
    error = train_net("quickstart/seesaw.yaml", *overrides, *extra)
    check_error(error, r"iteration \d+, learning rate \S+: .*images \S+\.jpg.* last good .*\.pth")
    checkpoints = list((tmp_path / "output").glob("*.pth"))
    assert checkpoints and tmp_path / "output" / "model_final.pth" not in checkpoints
    for path in checkpoints:
        weights = torch.load(path, weights_only=True)["model"]
        assert all(tensor.isfinite().all() for tensor in weights.values())


@pytest.mark.slow
def test_weights_of_another_loss(train_net, overrides, tmp_path):
    assert train_net("quickstart/softmax_ce.yaml", *overrides) is None
    output = tmp_path / "output"
    weights = ["MODEL.WEIGHTS", str(output / "model_final.pth")]
    second = [*overrides, "OUTPUT_DIR", str(tmp_path / "second")]
    # The same shape of classifier, and still another loss.
    error = train_net("quickstart/softmax_eql.yaml", "--eval-only", *second, *weights)
    check_error(error, "model_final.pth was trained with .*CLS_LOSS softmax_ce, .* softmax_eql")
    error = train_net("quickstart/seesaw.yaml", "--resume", *overrides, "SOLVER.MAX_ITER", "5")
    check_error(error, "trained with .*CLS_LOSS softmax_ce, but here it is seesaw")
    # The same loss and shape, and still another classifier.
    normed = ["MODEL.ROI_BOX_HEAD.NORMED_CLASSIFIER", "True"]
    error = train_net("quickstart/softmax_ce.yaml", "--eval-only", *second, *weights, *normed)
    check_error(error, "NORMED_CLASSIFIER False, but here it is True")
    # As a start for a new run they serve: all but the classifier is taken.
    assert train_net("quickstart/seesaw.yaml", *second, *weights) is None
    log = (tmp_path / "second" / "log.txt").read_text()
    assert "the classifier starts anew, the rest is loaded where its shape fits" in log


def test_evaluation_without_weights(train_net, overrides):
    error = train_net("quickstart/seesaw.yaml", "--eval-only", *overrides)
    check_error(error, "MODEL.WEIGHTS is empty")


@pytest.mark.skipif(torch.cuda.is_available(), reason="these are processes without a GPU")
def test_mistake_found_by_two_processes_is_one_line(overrides):
    command = ["--config-file", quickstart("eql.yaml"), "--num-gpus", "2", *overrides]
    script = Script("train_net.py", *command, "MODEL.WEIGHTS", "nowhere.pth")
    status, _, errors = script.communicate()
    assert status == 1
    last_line = errors.strip().splitlines()[-1]
    assert last_line.startswith("error: cannot read nowhere.pth")


@pytest.mark.slow
def test_script_in_a_process_of_its_own(overrides):
    """Exit status and the last line on the terminal, for good; and warnings of others are gone."""
    command = [
        *(sys.executable, str(ROOT / "train_net.py")),
        *("--config-file", quickstart("eql.yaml"), *overrides),
    ]
    bad = subprocess.run(
        [*command, "MODEL.ROI_BOX_HEAD.CLS_LOSS", "sesaw"], capture_output=True, text=True
    )
    assert bad.returncode == 1
    assert bad.stderr.strip().splitlines() == [
        "error: MODEL.ROI_BOX_HEAD.CLS_LOSS is 'sesaw'; it must be one of " + ", ".join(LOSSES)
    ]
