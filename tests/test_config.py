"""Values of Detectron2's own keys that would have no effect here, or end in a traceback."""

import re

import pytest

from eql_seesaw.config import load_config
from tests.engine.conftest import ROOT

QUICKSTART = str(ROOT / "configs" / "quickstart" / "seesaw.yaml")

MASK_HEAD, CASCADE = "MODEL.ROI_MASK_HEAD", "MODEL.ROI_BOX_CASCADE_HEAD"
IN_STAGES = [
    *("MODEL.ROI_HEADS.NAME", "LongTailCascadeROIHeads"),
    *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"),
]
TAU_NORM = [
    *("MODEL.ROI_BOX_HEAD.CLS_LOSS", "softmax_ce"),
    *("TEST.CALIBRATION.METHOD", "tau_norm", "TEST.CALIBRATION.STRENGTH", "0.5"),
]
REFUSED = [
    (["SOLVER.STEPS", "(6,)", "SOLVER.MAX_ITER", "6"], "SOLVER.STEPS is (6,); .* less than .* 6"),
    (["SOLVER.STEPS", "(5, 3)"], "SOLVER.STEPS is (5, 3); they must ascend"),
    (["MODEL.DEVICE", "mps"], "MODEL.DEVICE is 'mps'; it must be cuda or cpu"),
    (["MODEL.ROI_HEADS.NAME", "StandardROIHeads"], "NAME is 'StandardROIHeads'; it must be"),
    (["MODEL.ROI_BOX_HEAD.SEESAW.P", "-1.0"], "ROI_BOX_HEAD.SEESAW: p and q"),
    (["MODEL.KEYPOINT_ON", "True"], "MODEL.KEYPOINT_ON is True, which has no effect"),
    (["MODEL.LOAD_PROPOSALS", "True"], "MODEL.LOAD_PROPOSALS is True, which"),
    (["MODEL.META_ARCHITECTURE", "RetinaNet"], "'RetinaNet', .* use GeneralizedRCNN"),
    (["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "()"], "MIN_SIZES is .*; name a size"),
    (
        ["TEST.AUG.ENABLED", "True", "MODEL.META_ARCHITECTURE", "Own"],
        "TEST.AUG.ENABLED is true, .* not for Own",
    ),
    (
        [f"{MASK_HEAD}.MASK_THRESH_TEST", "1.0"],
        "MASK_THRESH_TEST is 1.0; it must be between 0 and 1",
    ),
    (
        [f"{MASK_HEAD}.MASK_THRESH_TEST", "0.4", f"{MASK_HEAD}.NAME", "MaskRCNNConvUpsampleHead"],
        "MASK_THRESH_TEST is 0.4, but .*Detectron2's, has no other than 0.5",
    ),
    ([*IN_STAGES, f"{CASCADE}.STAGE_LOSS_WEIGHTS", "(1, 2)"], "is (1, 2); .* each of the 3 stages"),
    ([*IN_STAGES, f"{CASCADE}.STAGE_LOSS_WEIGHTS", "('1', 1, 1)"], "a number from 0 for each"),
    (
        [*IN_STAGES, f"{CASCADE}.AVERAGED", "scores"],
        "'scores'; it must be one of probabilities, logits",
    ),
    (
        [*IN_STAGES, f"{CASCADE}.AVERAGED", "logits", *TAU_NORM],
        "tau_norm, .* but MODEL.ROI_BOX_CASCADE_HEAD.AVERAGED logits",
    ),
    ([f"{CASCADE}.STAGE_LOSS_WEIGHTS", "[1, 1, 1]"], "an effect only with .*LongTailCascadeROI"),
    ([f"{CASCADE}.AVERAGED", "logits"], "AVERAGED is 'logits', which has an effect only with"),
    ([f"{CASCADE}.STAGE_LOSS_WEIGHTS", "1.0"], "STAGE_LOSS_WEIGHTS; write a list: [1, 2]"),
    (["INPUT.SCALE_JITTER", "1"], "INPUT.SCALE_JITTER; write a list: [1, 2]"),
    (
        ["INPUT.SCALE_JITTER", "[1, 2]", "INPUT.SCALE_JITTER_SIZE", "0"],
        "SCALE_JITTER_SIZE is 0; it must be at least 1",
    ),
    (["MODEL.TIMM.NAME", "resnet18"], "TIMM.NAME is 'resnet18', which has an effect only with"),
    (["SOLVER.LAYER_DECAY", "0.0"], "LAYER_DECAY is 0.0; it must be above 0 and at most 1"),
    (["MODEL_EMA.DECAY", "1.0"], "MODEL_EMA.DECAY is 1.0; it must be from 0 to less than 1"),
    (["EVENT_WRITERS", "('wandb', 'visdom')"], "'visdom'); it is a list of some of tensorboard"),
    (["EVENT_WRITERS", "wandb"], "write a list"),
    (["DATASETS.TEST", "('../x',)"], "DATASETS: '../x' cannot be the name"),
    (["OUTPUT_DIR", "runs/a?b"], "OUTPUT_DIR is 'runs/a?b'; "),
    (["DATASETS.TEST", "(2024,)"], "DATASETS: 2024 .* put a number in quotes"),
]
FILES = [
    ("VERSION: 2\nTEST:\n", "Type mismatch"),
    ("_BASE_: itself.yaml\n", "its _BASE_ leads back to itself"),
]


def refusal(config_file, overrides=()):
    with pytest.raises(ValueError) as error:
        load_config(str(config_file), list(overrides))
    assert "\n" not in str(error.value)
    return str(error.value)


def pattern(text):
    return re.sub(r"([()\[\]?])", r"\\\1", text)


@pytest.mark.parametrize("overrides, expected", REFUSED, ids=lambda x: str(x)[:40])
def test_values_of_detectron2(overrides, expected):
    assert re.search(pattern(expected), refusal(QUICKSTART, overrides))


@pytest.mark.parametrize("text, expected", FILES)
def test_files(tmp_path, text, expected):
    path = tmp_path / "itself.yaml"
    path.write_text(text)
    assert refusal(path).startswith(f"config file {path}: {expected}")


def test_cropping_polygons_takes_shapely(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    crop = ["INPUT.CROP.ENABLED", "True", "INPUT.MASK_FORMAT"]
    assert "pip install shapely" in refusal(QUICKSTART, [*crop, "polygon"])
    load_config(QUICKSTART, [*crop, "bitmask"])
