"""--eval-only on one and on two processes: the same bits."""

import dataclasses
import json

import numpy as np
import pytest

from eql_seesaw.evaluation.matches import Matches
from eql_seesaw.evaluation.result import MATCHES, RESULTS, Result
from tests.engine.conftest import ROOT, SMALL_MODEL, as_arguments
from tests.ranks import train_net_on_ranks


def coco200_overrides(folder, output):
    """COCO format, 80 classes, photographs of many sizes; small enough for a CPU."""
    settings = {
        "DATASETS.TEST": "('coco200_val',)",
        "DATASETS.TRAIN": "('coco200_train',)",
        "MODEL.ROI_HEADS.NUM_CLASSES": 80,
        **SMALL_MODEL,
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
        "TEST.NUM_PICTURES": 1,
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
    return str(config), as_arguments(settings)


def assert_same_bits(one, two):
    assert (one / RESULTS).read_bytes() == (two / RESULTS).read_bytes()
    first, second = Result.load(str(one)), Result.load(str(two))
    changed = {"date": "", "folder": ""}
    assert dataclasses.replace(first, **changed) == dataclasses.replace(second, **changed)
    for iou_type in ("bbox", "segm"):
        ours = Matches.load(str(one / MATCHES.format(iou_type)))
        theirs = Matches.load(str(two / MATCHES.format(iou_type)))
        for field in dataclasses.fields(Matches):
            np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name))
    assert (one / "per_category.csv").read_bytes() == (two / "per_category.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["symbols", "coco200"])
def test_two_ranks_are_one(request, train_net, overrides, tmp_path, dataset):
    config, name = str(ROOT / "configs" / "quickstart" / "seesaw.yaml"), "symbols_val"
    if dataset == "coco200":
        folder = request.getfixturevalue("coco200")
        config, overrides = coco200_overrides(folder, tmp_path / "output")
        name = "coco200_val"
    assert train_net(config, *overrides) is None
    trained = ["MODEL.WEIGHTS", str(tmp_path / "output" / "model_final.pth")]
    trained += ["TEST.FIXED_AP", "True", "TEST.BOUNDARY_AP", "True"]
    one, two = tmp_path / "1", tmp_path / "2"
    evaluate = ["--eval-only", *overrides, *trained, "OUTPUT_DIR"]
    assert train_net(config, *evaluate, str(one)) is None
    train_net_on_ranks(tmp_path, "--config-file", config, *evaluate, two)
    folders = [output / "inference" / name for output in (one, two)]
    assert_same_bits(*folders)
    assert json.loads((folders[0] / RESULTS).read_text())
    assert "rank 1 evaluated" in (two / "log.txt.rank1").read_text()
