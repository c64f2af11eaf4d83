"""A training with each kind of backbone, as users type it: resumed, evaluated, exported."""

import pytest
import torch

from eql_seesaw.export import main as export
from tests.engine.conftest import first_difference, killed_copy, last_metrics

pytest.importorskip("timm")

CONFIG = "quickstart/seesaw.yaml"
ADAMW = [
    *("SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", "0.001", "SOLVER.WEIGHT_DECAY", "0.05"),
    *("INPUT.SCALE_JITTER", "(0.5, 2.0)", "INPUT.SCALE_JITTER_SIZE", "64"),
]
BACKBONES = {
    "convnext": [
        *("MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.TIMM.NAME", "test_convnext"),
        *("MODEL.TIMM.DROP_PATH_RATE", "0.3", "MODEL.FPN.NORM", "LN"),
    ],
    "vitdet": [
        *("MODEL.BACKBONE.NAME", "build_vitdet_backbone", "MODEL.VIT.IMAGE_SIZE", "96"),
        *("MODEL.VIT.EMBED_DIM", "32", "MODEL.VIT.DEPTH", "4", "MODEL.VIT.NUM_HEADS", "2"),
        *("MODEL.VIT.DROP_PATH_RATE", "0.3", "SOLVER.LAYER_DECAY", "0.7"),
        *("INPUT.MAX_SIZE_TEST", "96"),
    ],
}


def load(path):
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_run(train_net, overrides, tmp_path, backbone):
    run = [*overrides, *ADAMW, *BACKBONES[backbone], "SEED", "1", "SOLVER.MAX_ITER", "4"]
    run += ["SOLVER.CHECKPOINT_PERIOD", "2", "TEST.BEST_METRIC", ""]
    assert train_net(CONFIG, *run) is None
    output = tmp_path / "output"
    assert last_metrics(output)["bbox/AP"] >= 0

    killed = killed_copy(output)
    before = load(killed / "model_0000001.pth")
    again = [*run, "OUTPUT_DIR", str(killed), "DATASETS.TEST", "()"]
    assert train_net(CONFIG, "--resume", *again) is None
    found = load(killed / "model_final.pth")
    assert not first_difference(load(output / "model_final.pth"), found)
    moved = [key for key, x in found["model"].items() if not torch.equal(x, before["model"][key])]
    assert any("bottom_up.net" in key or "backbone.net" in key for key in moved)

    exported = str(tmp_path / "model.ts")
    config_file, weights = str(output / "config.yaml"), str(output / "model_final.pth")
    arguments = ["--config-file", config_file, "--weights", weights, "--output", exported]
    assert export(arguments) == 0
