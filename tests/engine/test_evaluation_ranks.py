"""--eval-only on one and on two processes: the same bits."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from eql_seesaw.evaluation.matches import Matches
from eql_seesaw.evaluation.result import MATCHES, RESULTS, Result
from tests.engine.conftest import ROOT
from tests.engine.test_train_net import free_port


def coco200_overrides(folder, output):
    """COCO format, 80 classes, photographs of many sizes; small enough for a CPU."""
    settings = {
        "DATASETS.TEST": "('coco200_val',)",
        "DATASETS.TRAIN": "('coco200_train',)",
        "MODEL.ROI_HEADS.NUM_CLASSES": 80,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 50,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
        "INPUT.MIN_SIZE_TRAIN": "(64,)",
        "INPUT.MIN_SIZE_TEST": 64,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 2,
        "SOLVER.STEPS": "(1,)",
        "TEST.EVAL_PERIOD": 0,
        "TEST.BEST_METRIC": "",
        "TEST.DETECTIONS_PER_IMAGE": 20,
        "DATALOADER.NUM_WORKERS": 0,
        "OUTPUT_DIR": output,
    }
    base = ROOT / "configs" / "quickstart" / "seesaw.yaml"
    lines = [f"_BASE_: {base}", "DATASETS:", "  REGISTER:"]
    for split in ("train", "val"):
        annotations, images = folder / f"instances_{split}2017.json", folder / f"{split}2017"
        lines.append(f"    coco200_{split}: {{JSON: {annotations}, IMAGES: {images}}}")
    config = output.parent / "coco200.yaml"
    config.write_text("\n".join(lines))
    return str(config), [str(part) for item in settings.items() for part in item]


def run(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train_net.py"), *arguments]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]


def assert_same_bits(one, two):
    assert (one / RESULTS).read_bytes() == (two / RESULTS).read_bytes()
    first, second = Result.load(str(one)), Result.load(str(two))
    changed = {"date": "", "matches": {}, "results_file": ""}
    assert dataclasses.replace(first, **changed) == dataclasses.replace(second, **changed)
    for iou_type in ("bbox", "segm"):
        ours = Matches.load(str(one / MATCHES.format(iou_type)))
        theirs = Matches.load(str(two / MATCHES.format(iou_type)))
        for field in dataclasses.fields(Matches):
            np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name))
    assert (one / "per_category.csv").read_bytes() == (two / "per_category.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["symbols", "coco200"])
def test_two_ranks_are_one(request, overrides, tmp_path, dataset):
    config, name = str(ROOT / "configs" / "quickstart" / "seesaw.yaml"), "symbols_val"
    if dataset == "coco200":
        folder = request.getfixturevalue("coco200")
        config, overrides = coco200_overrides(folder, tmp_path / "output")
        name = "coco200_val"
    run("--config-file", config, *overrides)
    trained = ["MODEL.WEIGHTS", str(tmp_path / "output" / "model_final.pth")]
    trained += ["TEST.FIXED_AP", "True", "TEST.BOUNDARY_AP", "True"]
    folders = []
    for num_processes in (1, 2):
        output = tmp_path / str(num_processes)
        launch = ["--eval-only", "--num-gpus", str(num_processes)]
        launch += ["--dist-url", f"tcp://127.0.0.1:{free_port()}"]
        run("--config-file", config, *launch, *overrides, *trained, "OUTPUT_DIR", str(output))
        folders.append(output / "inference" / name)
    assert_same_bits(*folders)
    assert json.loads((folders[0] / RESULTS).read_text())
    assert "rank 1 evaluated" in (tmp_path / "2" / "log.txt.rank1").read_text()
    assert not list(folders[1].glob("*.partial"))
