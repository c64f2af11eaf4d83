import logging

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage

from eql_seesaw.modeling import (
    LongTailFastRCNNOutputLayers,
    ScaledLinear,
    ScaledNormedLinear,
    freeze_all_but_classifiers,
    model_summary,
)

from .tiny_model import ROI_HEADS, tiny_config, training_batch


def build(folder, mode, roi_heads="LongTailROIHeads", name="softmax_ce", *overrides):
    cfg = tiny_config(
        folder,
        roi_heads,
        *("MODEL.ROI_BOX_HEAD.CLS_LOSS", name, "MODEL.ROI_BOX_HEAD.DECOUPLED", mode),
        *overrides,
    )
    model = build_model(cfg)
    freeze_all_but_classifiers(model)
    return cfg, model


def train_step(cfg, model):
    optimizer = build_optimizer(cfg, model)
    with EventStorage():
        sum(model.train()(training_batch()).values()).backward()
    optimizer.step()


@pytest.mark.parametrize("roi_heads", ROI_HEADS)
@pytest.mark.parametrize("mode, clip", [("retrain", False), ("scale", True), ("align", False)])
def test_nothing_else_changes(tmp_path, roi_heads, mode, clip):
    """Weights and batch norm's running statistics; every stage's classifier learns."""
    # Seesaw's background samples say nothing to the logits that are aligned.
    name = "softmax_ce" if mode == "align" else "seesaw"
    cfg, model = build(tmp_path, mode, roi_heads, name, "SOLVER.CLIP_GRADIENTS.ENABLED", clip)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for _ in range(2):  # the confidence has no gradient before there is a change to take
        train_step(cfg, model)
    changed = {key for key, value in model.state_dict().items() if not value.equal(before[key])}
    stages = [f"{i}." for i in range(3)] if "Cascade" in roi_heads else [""]
    aligned = ["scale", "shift", "confidence.weight", "confidence.bias"]
    learn = {
        "retrain": ["weight", "bias"],
        "scale": ["scale"],
        "align": [f"alignment.{name}" for name in aligned],
    }[mode]
    prefixes = [f"roi_heads.box_predictor.{stage}" for stage in stages]
    counts = {f"{prefix}loss.cumulative_counts" for prefix in prefixes}
    assert changed - counts == {f"{prefix}cls_score.{x}" for prefix in prefixes for x in learn}


def test_log_line(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        _, model = build(tmp_path, "retrain")
    total = sum(p.numel() for p in model.parameters())
    # 7 logits from 32 features.
    assert (
        f"231 of {total:,} parameters train: roi_heads.box_predictor.cls_score.weight, "
        "roi_heads.box_predictor.cls_score.bias"
    ) in caplog.text
    assert len([r for r in caplog.records if "parameters train" in r.getMessage()]) == 1


@pytest.mark.parametrize(
    "name, layer", [("softmax_ce", ScaledLinear), ("seesaw", ScaledNormedLinear)]
)
def test_summary_names_the_scale(tmp_path, name, layer):
    _, model = build(tmp_path, "scale", "LongTailROIHeads", name)
    predictor = next(m for m in model.modules() if isinstance(m, LongTailFastRCNNOutputLayers))
    assert type(predictor.cls_score) is layer
    assert predictor.cls_score.scale.shape == (predictor.loss.num_logits,)
    assert "learnable scale per logit" in model_summary(model)
    _, model = build(tmp_path, "retrain", "LongTailROIHeads", name)
    assert "learnable" not in model_summary(model)
    _, model = build(tmp_path, "align", "LongTailROIHeads", name)
    assert "learnable alignment of the classes" in model_summary(model)


def test_scaled_classifier_starts_as_the_loss_wants_it(tmp_path):
    _, model = build(tmp_path, "scale", "LongTailROIHeads", "sigmoid_ce")
    classifier = model.roi_heads.box_predictor.cls_score
    torch.testing.assert_close(classifier.bias.sigmoid(), torch.full((6,), 0.001))
    assert classifier.scale.tolist() == [1.0] * 6
