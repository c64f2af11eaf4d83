"""The strength of a calibration, chosen from the command line."""

import json
import re

import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from eql_seesaw import engine
from eql_seesaw.calibrate import main
from eql_seesaw.command_line import argument_parser
from eql_seesaw.data.register import register_datasets
from eql_seesaw.engine.placement import find_placement
from eql_seesaw.prediction.calibration_sweep import best_strength, read_images, sweep_strengths

from .conftest import ROOT

CONFIG = str(ROOT / "configs" / "quickstart" / "softmax_ce.yaml")
# Random boxes and classes overlap with some objects, if there are many of them.
RANDOM = [
    *("MODEL.RPN.POST_NMS_TOPK_TEST", "50", "TEST.DETECTIONS_PER_IMAGE", "30"),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "TEST.NUM_PICTURES", "0"),
]


@pytest.fixture
def weights(overrides, tmp_path):
    """A checkpoint of Detectron2's form, with nothing of ours in it, of a random model."""
    torch.manual_seed(0)
    cfg = engine.load_config(CONFIG, overrides)
    register_datasets(cfg)
    model = build_model(cfg)
    for name, parameter in model.named_parameters():
        if "cls_score.weight" in name:
            torch.nn.init.normal_(parameter, std=1.0)
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    return str(tmp_path / "model.pth")


@pytest.fixture
def calibrate(overrides, weights, tmp_path, capsys):
    """``calibrate("norcal", ...)`` as a user would; what it prints, or the line it ends with."""

    def run(method, *options, settings=()):
        files = ["--config-file", CONFIG, "--weights", weights, "--output", str(tmp_path / "out")]
        try:
            assert main([*files, "--method", method, *options, *overrides, *RANDOM, *settings]) == 0
        except SystemExit as error:
            return error.code
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_strength_by_one_pass_is_that_of_an_evaluation(overrides, weights):
    key = "TEST.CALIBRATION"
    settings = [f"{key}.METHOD", "norcal", f"{key}.STRENGTH", "3.0"]
    line = ["--eval-only", *overrides, *RANDOM, "DATASETS.TEST", "('symbols_train',)"]
    args = argument_parser("").parse_args(["--config-file", CONFIG, *line, *settings])
    args.placement = find_placement(args, {})
    setup = engine.set_up(args)
    model = engine.LongTailTrainer.build_model(setup.cfg)
    engine.load_trained(engine.build_checkpointer(setup.cfg, model), weights)
    found = engine.evaluate(setup, model)
    groups = setup.training_set.statistics.groups
    dataset = read_images(setup.cfg, "symbols_train", groups, 10**6)
    sweep = sweep_strengths(setup.cfg, model.eval(), ("symbols_train", *dataset), [0.5, 3.0])
    assert list(sweep) == [None, 0.5, 3.0]
    assert json.dumps(sweep[3.0]) == json.dumps(found)
    assert sweep[None]["bbox"]["AP"] > 0
    assert len({metrics["bbox"]["AP"] for metrics in sweep.values()}) == 3


def test_table_picture_and_statistics(calibrate, tmp_path):
    out = calibrate("fracal", "--strengths", "0,2", "--num-images", "20")
    assert out.startswith("20 images of symbols_train\n")
    rows = re.findall(r"^\| *(none|0|2) *\|(.*)\|$", out, flags=re.MULTILINE)
    assert [name for name, _ in rows] == 2 * ["none", "0", "2"]  # boxes and masks
    assert all(len(row.split("|")) == 4 for _, row in rows)
    assert Image.open(tmp_path / "out" / "fracal.png").size[0] > 300
    statistics = json.loads((tmp_path / "out" / "class_statistics.json").read_text())
    assert statistics["image_counts"] == [1, 110, 8, 20, 105, 40]
    assert len(statistics["fractal_dimensions"]) == len(statistics["thing_classes"]) == 6
    # The line can be typed: without the training set, by the file alone.
    last = out.strip().splitlines()[-1]
    best = last.removeprefix("best AP: ").split()
    if best[0].startswith("TEST"):
        cfg = engine.load_config(CONFIG, [*best, "DATASETS.TRAIN", "()"])
        assert cfg.TEST.CALIBRATION.METHOD == "fracal"
        assert cfg.DATASETS.CLASS_STATISTICS == str(tmp_path / "out" / "class_statistics.json")
    else:
        assert last == "none of these strengths is better than no calibration"


def test_best_is_by_masks_where_there_are_some_and_the_weakest_of_equal_ones():
    sweep = {
        None: {"bbox": {"AP": 9.0}, "segm": {"AP": 1.0}},
        0.1: {"bbox": {"AP": 1.0}, "segm": {"AP": 2.0}},
        0.2: {"bbox": {"AP": 1.0}, "segm": {"AP": 2.0}},
        0.3: {"bbox": {"AP": 1.0}, "segm": {}},
    }
    assert best_strength(sweep) == 0.1
    boxes = {strength: {"bbox": metrics["bbox"]} for strength, metrics in sweep.items()}
    assert best_strength(boxes) is None


@pytest.mark.parametrize(
    "method, options, settings, expected",
    [
        ("norcal", ["--dataset", "symbols_val"], [], "--dataset symbols_val is 'symbols_val' of D"),
        ("norcal", ["--dataset", "no"], [], "--dataset: no dataset is registered as 'no'"),
        ("norcal", ["--strengths", "0,-1"], [], 2),
        ("norcal", ["--num-images", "0"], [], 2),
        ("norcal", [], ["MODEL.ROI_BOX_HEAD.CLS_LOSS", "eql"], "not defined for Equalization"),
        ("fracal", [], ["DATASETS.TRAIN", "()"], "DATASETS.TRAIN is empty"),
    ],
    ids=str,
)
def test_wrong_input_is_one_line(calibrate, tmp_path, method, options, settings, expected):
    error = calibrate(method, *options, settings=settings)
    if isinstance(expected, int):
        assert error == expected
    else:
        assert error.startswith("error: ") and expected in error and "\n" not in error
    assert not (tmp_path / "out").exists()


def test_validation_set_by_another_name_is_refused(calibrate, symbols):
    register = "DATASETS.REGISTER.symbols_train"
    val = [f"{register}.JSON", str(symbols / "symbols_val.json")]
    val += [f"{register}.IMAGES", str(symbols / "val")]
    assert "--dataset symbols_train is 'symbols_val' of DATASETS.TEST" in calibrate(
        "norcal", settings=val
    )
