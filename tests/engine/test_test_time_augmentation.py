"""Detectron2's TEST.AUG, with our heads."""

import json

import pytest
import torch
from detectron2.data.detection_utils import read_image
from detectron2.modeling import GeneralizedRCNNWithTTA, build_model

from eql_seesaw.engine import load_config
from eql_seesaw.prediction import BatchPredictor
from tests.engine.conftest import ROOT, last_metrics
from tests.modeling.tiny_model import tiny_config, training_batch

AUGMENTED = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64,)", "TEST.AUG.MAX_SIZE", "64"]
SIZES_AND_FLIP = ["TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (48, 80)]


def read_detections(output, folder):
    file = output / folder / "symbols_val" / "lvis_instances_results.json"
    return json.loads(file.read_text())


@pytest.mark.parametrize("score_threshold", [0.0, 1.0])
def test_detections_are_those_of_detectron2s_heads(tmp_path, score_threshold):
    """Also where there are none."""
    loss = ["MODEL.ROI_BOX_HEAD.CLS_LOSS", "softmax_ce", *SIZES_AND_FLIP]
    loss += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", score_threshold]
    cfg = tiny_config(tmp_path, "LongTailROIHeads", *loss)
    theirs_cfg = cfg.clone()
    theirs_cfg.defrost()
    theirs_cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    theirs_cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    ours, theirs = (build_model(c).eval() for c in (cfg, theirs_cfg))
    weights = {name: torch.randn_like(x) * 0.1 for name, x in ours.roi_heads.state_dict().items()}
    for model in (ours, theirs):
        model.load_state_dict(ours.state_dict(), strict=False)
        model.roi_heads.load_state_dict(weights, strict=False)
    images = training_batch()
    with torch.no_grad():
        found, expected = (
            GeneralizedRCNNWithTTA(c, model)(images)
            for c, model in ((cfg, ours), (theirs_cfg, theirs))
        )
    assert any(len(output["instances"]) for output in expected) == (score_threshold < 1)
    for own, their in zip(found, expected, strict=True):
        own, their = own["instances"], their["instances"]
        torch.testing.assert_close(own.pred_boxes.tensor, their.pred_boxes.tensor)
        torch.testing.assert_close(own.scores, their.scores)
        assert torch.equal(own.pred_classes, their.pred_classes)
        assert torch.equal(own.pred_masks, their.pred_masks)


def test_without_another_size_nor_flip_nothing_changes(train_net, overrides, tmp_path):
    config = "quickstart/seesaw.yaml"
    augmented = [*AUGMENTED, "TEST.AUG.FLIP", "False"]
    # Augmented once, after the training, though it is evaluated before, too.
    assert train_net(config, *overrides, *augmented, "TEST.EVAL_PERIOD", "2") is None
    output = tmp_path / "output"
    lines = [json.loads(line) for line in open(output / "metrics.json")]
    lines = [line for line in lines if "bbox/AP" in line]
    assert ["bbox_TTA/AP" in line for line in lines] == [False, True]
    for task in ("bbox", "segm"):
        assert lines[-1][f"{task}_TTA/APr"] == lines[-1][f"{task}/APr"]
    found, expected = (read_detections(output, name) for name in ("inference_TTA", "inference"))
    assert len(found) == len(expected) > 0
    for own, their in zip(found, expected, strict=True):
        assert own["category_id"] == their["category_id"]
        assert own["bbox"] == pytest.approx(their["bbox"], abs=1e-4)
        assert own["segmentation"] == their["segmentation"]


def test_prediction_gives_the_detections_of_the_evaluation(
    train_net, overrides, symbols, tmp_path, monkeypatch
):
    settings = [*overrides, *AUGMENTED, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    assert train_net("quickstart/seesaw.yaml", *settings) is None
    output = tmp_path / "output"
    assert last_metrics(output)["bbox_TTA/AP"] >= 0
    cfg = load_config(str(ROOT / "configs" / "quickstart" / "seesaw.yaml"), settings)
    predictor = BatchPredictor(cfg, str(output / "model_final.pth"))
    detections = read_detections(output, "inference_TTA")
    image_id = detections[0]["image_id"]
    (image,) = (
        image
        for image in json.loads((symbols / "symbols_val.json").read_text())["images"]
        if image["id"] == image_id
    )
    (instances,) = predictor([read_image(symbols / "val" / image["file_name"], format="BGR")])
    expected = [x["score"] for x in detections if x["image_id"] == image_id]
    assert instances.scores.tolist() == pytest.approx(expected, abs=1e-5)
