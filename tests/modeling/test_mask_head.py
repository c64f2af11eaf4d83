import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import detector_postprocess
from detectron2.modeling.roi_heads import build_mask_head
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F

from eql_seesaw.modeling import (
    NormedConv2d,
    NormedMaskRCNNConvUpsampleHead,
    OwnClassMaskRCNNConvUpsampleHead,
)

from .tiny_model import NUM_CLASSES as K
from .tiny_model import tiny_config

SHAPE = ShapeSpec(channels=5, height=4, width=4)


@pytest.mark.parametrize("agnostic", [True, False])
def test_from_config(tmp_path, agnostic):
    cfg = tiny_config(
        tmp_path,
        "LongTailROIHeads",
        *("MODEL.ROI_MASK_HEAD.NAME", "NormedMaskRCNNConvUpsampleHead"),
        *("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", agnostic),
        *("MODEL.ROI_MASK_HEAD.TEMPERATURE", 7.0),
    )
    head = build_mask_head(cfg, SHAPE)
    assert isinstance(head, NormedMaskRCNNConvUpsampleHead)
    assert isinstance(head.predictor, NormedConv2d) and head.predictor.temperature == 7
    assert head.layers(torch.randn(3, 5, 4, 4)).shape == (3, 1 if agnostic else K, 8, 8)


def test_default_temperature_is_the_papers(tmp_path):
    cfg = tiny_config(
        tmp_path,
        "LongTailROIHeads",
        *("MODEL.ROI_MASK_HEAD.NAME", "NormedMaskRCNNConvUpsampleHead"),
    )
    assert build_mask_head(cfg, SHAPE).predictor.temperature == 20
    head = NormedMaskRCNNConvUpsampleHead(SHAPE, num_classes=K, conv_dims=[8])
    assert head.predictor.temperature == 20


def test_initialisation():
    """Zero bias, filters of no preferred direction, and of a length that gives sane gradients."""
    head = NormedMaskRCNNConvUpsampleHead(SHAPE, num_classes=50, conv_dims=[64])
    assert (head.predictor.bias == 0).all()
    assert head.predictor.weight.std().item() == pytest.approx((2 / 50) ** 0.5, rel=0.1)
    directions = F.normalize(head.predictor.weight.detach().flatten(1), dim=1)
    assert directions.mean(0).norm() < 0.4


@pytest.mark.parametrize(
    "name", ["OwnClassMaskRCNNConvUpsampleHead", "NormedMaskRCNNConvUpsampleHead"]
)
def test_threshold(tmp_path, name):
    """Masks of probability 0.45 everywhere are empty at 0.5, and at 0.4 they fill their boxes."""
    areas = {}
    for threshold in (0.5, 0.4):
        key = "MODEL.ROI_MASK_HEAD"
        settings = [f"{key}.NAME", name, f"{key}.MASK_THRESH_TEST", threshold]
        head = build_mask_head(tiny_config(tmp_path, "LongTailROIHeads", *settings), SHAPE).eval()
        torch.nn.init.zeros_(head.predictor.weight)
        torch.nn.init.constant_(head.predictor.bias, math.log(0.45 / 0.55))
        detections = Instances((20, 30), pred_classes=torch.tensor([1]))
        detections.pred_boxes = Boxes([[4.0, 6, 12, 14]])
        head(torch.randn(1, 5, 4, 4), [detections])
        areas[threshold] = detector_postprocess(detections, 20, 30).pred_masks.sum().item()
    assert areas == {0.5: 0, 0.4: 64}


def test_threshold_is_detectron2s():
    """Random masks come out as with the argument of Detectron2's post-processing."""
    settings = {"num_classes": 3, "conv_dims": [6]}
    scaled = OwnClassMaskRCNNConvUpsampleHead(SHAPE, **settings, mask_threshold=0.4).eval()
    plain = OwnClassMaskRCNNConvUpsampleHead(SHAPE, **settings).eval()
    torch.nn.init.normal_(plain.predictor.weight)
    scaled.load_state_dict(plain.state_dict())
    x, masks = torch.randn(2, 5, 4, 4), []
    for head, arguments in ((scaled, {}), (plain, {"mask_threshold": 0.4}), (plain, {})):
        detections = Instances((20, 30), pred_classes=torch.tensor([0, 2]))
        detections.pred_boxes = Boxes([[1.0, 2, 25, 18], [4, 6, 14, 16]])
        head(x, [detections])
        masks.append(detector_postprocess(detections, 40, 60, **arguments).pred_masks)
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])
