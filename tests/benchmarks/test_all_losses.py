"""Losses compared on the features of a trained detector."""

import json

import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from benchmarks import all_losses
from benchmarks.all_losses import COLUMNS, box_evaluator, evaluate, main
from eql_seesaw import engine
from eql_seesaw.calibrate import STRENGTHS
from eql_seesaw.command_line import argument_parser
from eql_seesaw.engine.placement import find_placement
from tests.engine.conftest import ROOT, as_arguments, small_dataset, small_run

CONFIG = str(ROOT / "configs" / "quickstart" / "softmax_ce.yaml")


@pytest.fixture
def overrides(tmp_path):
    """KEY VALUE ... of a detector of random weights, which are in a file."""
    small_dataset(tmp_path / "symbols")
    settings = {
        **small_run(tmp_path / "symbols", tmp_path / "output"),
        "MODEL.MASK_ON": False,
        "TEST.BEST_METRIC": "",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 200,
        "TEST.DETECTIONS_PER_IMAGE": 300,
        "MODEL.WEIGHTS": tmp_path / "model.pth",
    }
    args = argument_parser("").parse_args(["--config-file", CONFIG, *as_arguments(settings)])
    args.placement = find_placement(args, {})
    setup = engine.set_up(args)
    torch.manual_seed(0)
    model = build_model(setup.cfg).eval()
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight)
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    return setup, model, as_arguments(settings)


def test_evaluation_of_features_is_that_of_the_detector(overrides):
    setup, model, _ = overrides
    expected = engine.evaluate(setup, model)["bbox"]
    images = all_losses.test_features(setup.cfg, model, setup.test_images["symbols_val"])
    evaluator = box_evaluator(setup.cfg, "symbols_val", setup.ground_truths["symbols_val"])
    found = evaluate(model.roi_heads.box_predictor, images, evaluator)
    assert found["AP"] > 0
    assert found == {column: expected[column] for column in COLUMNS}


def test_a_classifier_learns_the_classes_of_its_samples(overrides):
    """Each class, background too, has features of its own."""
    setup, model, _ = overrides
    trained = model.roi_heads.box_predictor
    cfg = all_losses.row_config(setup.cfg, "softmax_ce").clone()
    cfg.defrost()
    solver = ["BASE_LR", 0.1, "MAX_ITER", 60, "STEPS", (50,), "WARMUP_ITERS", 0]
    cfg.SOLVER.merge_from_list(solver)
    gt_classes = torch.arange(trained.num_classes + 1)
    features = 4 * torch.eye(len(gt_classes), trained.cls_score.in_features)
    samples = [[(features, gt_classes)] * all_losses.NUM_SAMPLINGS] * 2
    predictor, _ = all_losses.train_classifier(cfg, trained, samples, seed=1)
    assert torch.equal(predictor.cls_score(features).argmax(dim=1), gt_classes)
    assert torch.equal(predictor.bbox_pred.weight, trained.bbox_pred.weight)


def test_table(overrides, tmp_path, capsys, monkeypatch):
    """A row for each loss and calibration; what is there is not computed again."""
    monkeypatch.setattr(all_losses, "STRENGTHS", dict.fromkeys(STRENGTHS, (0.5,)))
    *_, arguments = overrides
    command = ["--config-file", CONFIG, "--output", str(tmp_path / "out"), "--seeds", "2"]
    command += ["--only", "softmax_ce", "--only", "seesaw", *arguments]
    main(command)
    table = capsys.readouterr().out
    for row in ("softmax_ce", "seesaw", "softmax_ce, then fracal"):
        assert f"| {row} " in table
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert len(lines) == 2 + 2 + 2 * 4 + 4  # with the strengths
    assert {json.loads(line)["seed"] for line in lines} == {1, 2}
    assert Image.open(tmp_path / "out" / "all_losses.png").size[0] > 600
    main(command)
    assert table.endswith(capsys.readouterr().out)
    assert (tmp_path / "out" / "results.jsonl").read_text().splitlines() == lines
    with pytest.raises(SystemExit, match="config.yaml is of other settings"):
        main([*command, "SEED", "7"])
    with pytest.raises(SystemExit, match="KEEP_ANNOTATED must be False"):
        main([*command, "MODEL.ROI_BOX_HEAD.EQL.KEEP_ANNOTATED", "True"])
