import pytest
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import nn

from eql_seesaw.modeling import EQLFastRCNNOutputLayers, model_summary, protection_doubts

from .tiny_model import tiny_config

LOSS_CLASSES = {"eql": "EqualizationLoss", "softmax_eql": "SoftmaxEqualizationLoss"}


def summary(folder, roi_heads, *overrides):
    """The summary's lines by the name of the module that they are about."""
    model = build_model(tiny_config(folder, roi_heads, *overrides))
    lines = model_summary(model).splitlines()
    return dict(line.split(": ", 1) for line in lines)


def assert_facts(text, *facts):
    for fact in facts:
        assert fact in text


@pytest.mark.parametrize(
    "name, max_image_count, counts",
    [
        ("eql", 99, ["2 of 2 rare", "1 of 2 common", "0 of 2 frequent"]),
        ("softmax_eql", 101, ["2 of 2 rare", "2 of 2 common", "1 of 2 frequent"]),
    ],
)
def test_protected_classes(tmp_path, name, max_image_count, counts):
    lines = summary(
        tmp_path,
        "LongTailROIHeads",
        *("MODEL.ROI_BOX_HEAD.CLS_LOSS", name),
        *(f"MODEL.ROI_BOX_HEAD.{name.upper()}.MAX_IMAGE_COUNT", max_image_count),
    )
    assert_facts(lines["roi_heads.box_predictor"], LOSS_CLASSES[name], "linear", *counts)


@pytest.mark.parametrize(
    "max_image_count, which", [(10_000, "all 6"), (0, "none of the"), (100, None)]
)
def test_loss_that_treats_all_classes_alike(tmp_path, max_image_count, which):
    cfg = tiny_config(
        tmp_path,
        "LongTailCascadeROIHeads",
        *("MODEL.ROI_BOX_HEAD.CLS_LOSS", "eql"),
        *("MODEL.ROI_BOX_HEAD.EQL.MAX_IMAGE_COUNT", max_image_count),
    )
    lines = protection_doubts(build_model(cfg))
    assert len(lines) == (which is not None)  # once for all stages
    assert which is None or f"protects {which} classes from each other" in lines[0]


def test_seesaw(tmp_path):
    lines = summary(
        tmp_path,
        "LongTailROIHeads",
        *("MODEL.ROI_BOX_HEAD.CLS_LOSS", "seesaw"),
        *("MODEL.ROI_BOX_HEAD.TEMPERATURE", 17.0),
        *("MODEL.ROI_BOX_HEAD.SEESAW.P", 0.7),
    )
    text = lines["roi_heads.box_predictor"]
    assert_facts(
        text, "SeesawLoss", "6 classes", "8 logits", "p=0.7", "normalised classifier", "17"
    )
    assert "protected" not in text


@pytest.mark.parametrize("agnostic, word", [(True, "agnostic"), (False, "specific")])
def test_class_agnostic_or_specific(tmp_path, agnostic, word):
    lines = summary(
        tmp_path,
        "LongTailROIHeads",
        *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", agnostic),
        *("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", agnostic),
    )
    assert f"class-{word} boxes" in lines["roi_heads.box_predictor"]
    assert f"class-{word} masks" in lines["roi_heads.mask_head"]


def test_cascade_has_a_line_for_each_stage(tmp_path):
    lines = summary(tmp_path, "LongTailCascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_LOSS", "seesaw")
    stages = [f"roi_heads.box_predictor.{stage}" for stage in range(3)]
    assert list(lines) == [*stages, "roi_heads.mask_head"]
    for stage in stages:
        assert_facts(lines[stage], "SeesawLoss", "8 logits", "class-agnostic boxes")


def test_normed_mask_head(tmp_path):
    plain = summary(tmp_path, "LongTailROIHeads")["roi_heads.mask_head"]
    assert "MaskRCNNConvUpsampleHead" in plain and "normalised" not in plain
    normed = summary(
        tmp_path,
        "LongTailROIHeads",
        *("MODEL.ROI_MASK_HEAD.NAME", "NormedMaskRCNNConvUpsampleHead"),
        *("MODEL.ROI_MASK_HEAD.TEMPERATURE", 13.0),
    )["roi_heads.mask_head"]
    assert_facts(normed, "NormedMaskRCNNConvUpsampleHead", "normalised predictor", "13")


def test_without_a_config():
    predictor = EQLFastRCNNOutputLayers(
        ShapeSpec(channels=4),
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        num_classes=2,
        loss={"image_counts": [3, 300]},
    )
    assert_facts(model_summary(predictor), "2 classes", "EqualizationLoss", "1 of 2 classes")
    assert model_summary(nn.Linear(1, 1)) == ""
