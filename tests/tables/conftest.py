import json
import os
import signal
from pathlib import Path

import pytest
import torch

import eql_seesaw.tables.__main__ as command
from eql_seesaw.evaluation.result import Result
from eql_seesaw.schedule import scale_to_batch
from eql_seesaw.tables import load_table, miniature, table
from eql_seesaw.tables.run import Run

ROOT = Path(__file__).parents[2]

CONFIG = f"""
_BASE_: {ROOT}/configs/quickstart/%s.yaml
DATASETS:
  REGISTER:
    symbols_train: {{JSON: train.json, IMAGES: images}}
    symbols_val: {{JSON: val.json, IMAGES: images}}
SOLVER: {{IMS_PER_BATCH: 8, BASE_LR: 0.02, MAX_ITER: 100, STEPS: [60, 80], CHECKPOINT_PERIOD: 50}}
"""
MINIATURE = f"""
_BASE_: {ROOT}/configs/quickstart/Base-symbols.yaml
DATASETS:
  REGISTER:
    symbols_train: {{JSON: train.json, IMAGES: images}}
    symbols_val: {{JSON: val.json, IMAGES: images}}
MODEL:
  MASK_ON: False
  ROI_HEADS: {{NAME: LongTailROIHeads}}
SOLVER: {{MAX_ITER: 10, STEPS: [8]}}
TEST: {{BEST_METRIC: bbox/AP}}
"""
# Method against a baseline on the generated dataset, one row with the checkpoint of another.
SMALL = """
title: Small table
dataset: symbols
columns: [AP, APr, APbox]
rows:
- {name: ce, label: CE, config: configs/small/softmax_ce.yaml}
- {name: seesaw, label: Seesaw, config: configs/small/seesaw.yaml, seeds: 2}
- name: retrain
  label: DE-Seesaw
  config: configs/small/retrain.yaml
  inputs: {MODEL.WEIGHTS: {row: small/ce, file: model_final.pth}}
"""
# The weights that rows start from in miniature.
START = """
title: Weights to start from
dataset: symbols
columns: [AP, APr, APbox]
inputs:
  MODEL.WEIGHTS: {row: miniature/pretrain, file: model_final.pth, seed: 1}
rows:
- {name: pretrain, label: Pre-training, config: configs/miniature/pretrain.yaml}
- {name: ce, label: CE, config: configs/small/softmax_ce.yaml}
"""
BIG = """
title: Big table
source: A paper, table 7
dataset: lvis_v1
columns: [AP, APr, APbox]
notes: A note.
rows:
- name: ce
  label: CE
  config: configs/big/softmax_ce.yaml
  published: {AP: 20.0, APr: 5.0, APbox: 21.0}
- name: p
  label: p = 0.2
  config: configs/big/cascade.yaml
  overrides: {MODEL.ROI_BOX_HEAD.SEESAW.P: 0.2}
  published: {AP: 23.0, APr: 10.0}
- name: test_dev
  label: CE, test-dev
  config: configs/big/softmax_ce.yaml
  split: test-dev
  published: {AP: 22.0}
"""
# Does what train_net.py does to files, without training. FAIL and KILLED are parts of OUTPUT_DIR.
TRAIN_NET = """
import json, os, signal, sys
output = sys.argv[sys.argv.index("OUTPUT_DIR") + 1]
with open("calls.txt", "a") as f:
    print(os.environ.get("OMP_NUM_THREADS"), *sys.argv[1:], file=f)
os.makedirs(output, exist_ok=True)
dump = json.load(open("dumps.json"))[output]
open(os.path.join(output, "config.yaml"), "w").write(dump["config"])
metrics = open(os.path.join(output, "metrics.json"), "a")
print(json.dumps({"iteration": 19, "total_loss": 1.0}), file=metrics, flush=True)
open(os.path.join(output, "last_checkpoint"), "w").write("model_0000019.pth")
if os.path.exists("hang"):
    with open("hang", "w") as fifo:
        fifo.write("hanging\\n")
        fifo.flush()
        signal.pause()
if os.environ.get("FAIL", "nothing") in output:
    sys.exit("error: no luck")
if os.environ.get("KILLED", "nothing") in output:
    os.kill(os.getpid(), signal.SIGKILL)
open(os.path.join(output, "model_final.pth"), "w").close()
print(json.dumps({"iteration": dump["iteration"], "bbox/AP": 30.0, "segm/AP": 20.0}), file=metrics)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The folder of a project with three tables and a stand-in for train_net.py."""
    for folder in ("configs/small", "configs/big", "configs/miniature", "tables", "images"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("small", "big"):
        for loss in ("softmax_ce", "seesaw"):
            (tmp_path / f"configs/{folder}/{loss}.yaml").write_text(CONFIG % loss)
    (tmp_path / "configs/small/retrain.yaml").write_text("_BASE_: seesaw.yaml\n")
    (tmp_path / "configs/big/cascade.yaml").write_text(
        "_BASE_: seesaw.yaml\nMODEL: {ROI_HEADS: {NAME: LongTailCascadeROIHeads}}\n"
    )
    (tmp_path / miniature.CONFIG).write_text(MINIATURE)
    (tmp_path / "configs/miniature/pretrain.yaml").write_text(
        "_BASE_: Base-miniature.yaml\nDATASETS: {TEST: []}\nTEST: {BEST_METRIC: ''}\n"
    )
    for name in ("train.json", "val.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "tables/small.yaml").write_text(SMALL)
    (tmp_path / "tables/big.yaml").write_text(BIG)
    (tmp_path / "tables/miniature.yaml").write_text(START)
    (tmp_path / "train_net.py").write_text(TRAIN_NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(table, "DATA", tmp_path / "tables")
    return tmp_path


@pytest.fixture
def run_command(project, capsys):
    """``run_command("run", "small")`` -> (exit status or error, standard output and error)."""

    def run(*arguments):
        handlers = {sign: signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGHUP)}
        try:
            status = command.main([str(argument) for argument in arguments])
        except SystemExit as error:
            status = error.code
        finally:
            for sign, handler in handlers.items():
                signal.signal(sign, handler)
        output = capsys.readouterr()
        return status, output.out + output.err

    return run


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def add_to(path, text):
    with open(path, "a") as f:
        f.write(text)


def runs_of(name, scale="full", seeds=1, output="output/tables"):
    """{(row, seed): run}"""
    loaded = load_table(name)
    return {
        (row.name, seed): Run(loaded, row, scale, output, seed)
        for row in loaded.rows
        for seed in range(1, seeds + 1)
    }


def prepare_training(runs, batch=None):
    """Tell the stand-in for train_net.py what to write."""
    dumps = {}
    for run in runs:
        cfg = scale_to_batch(run.cfg, batch) if batch else run.cfg
        last = cfg.SOLVER.MAX_ITER - (not cfg.DATASETS.TEST)
        dumps[run.folder] = {"config": cfg.dump(), "iteration": last}
    Path("dumps.json").write_text(json.dumps(dumps))


def finish(run, batch=None, changes=(), classes=((5, 20.0),), gradients=None, **metrics):
    """
    Leave what a finished run leaves.

    Args:
        changes: KEY, VALUE, ... of its config.
        classes: training images and AP of each.
        gradients: sums of positive, and of negative gradients of each.
    """
    cfg = scale_to_batch(run.cfg, batch) if batch else run.cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(list(changes))
    os.makedirs(run.folder, exist_ok=True)
    Path(run.folder, "config.yaml").write_text(cfg.dump())
    values = {key.replace("_", "/", 1): value for key, value in metrics.items()}
    # Without an evaluation, the last line is of the last iteration, which are numbered from 0.
    last = cfg.SOLVER.MAX_ITER if cfg.DATASETS.TEST else cfg.SOLVER.MAX_ITER - 1
    write_metrics(run, {"iteration": 9}, {"iteration": last, **values})
    Path(run.folder, "model_final.pth").touch()
    categories = [
        {"id": i, "name": f"class {i}", "group": "r", "train_images": images, "num_objects": 1}
        | {"bbox": {"AP": ap}, "segm": {"AP": ap}}
        for i, (images, ap) in enumerate(classes, 1)
    ]
    for dataset in cfg.DATASETS.TEST:
        folder = Path(run.folder, "inference", dataset)
        folder.mkdir(parents=True, exist_ok=True)
        Result(dataset, "val.json", "e", 300, 1, 1, "", {}, categories, {}).save(folder)
    if gradients:
        content = dict(zip(("positive", "negative"), gradients, strict=True))
        Path(run.folder, "gradient_statistics.json").write_text(json.dumps(content))


def finish_inputs(run):
    for _, input_run, _ in run.inputs:
        finish(input_run, bbox_AP=1.0)


def write_metrics(run, *lines):
    lines = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    Path(run.folder, "metrics.json").write_text("".join(f"{line}\n" for line in lines))
