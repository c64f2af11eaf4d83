"""Detectron2's configs in Python, with the lines of docs/training.md, trained as it trains them."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import SimpleTrainer

from datasets.make_symbols import generate_symbols
from eql_seesaw.losses import build_loss
from eql_seesaw.modeling import LongTailFastRCNNOutputLayers, loss_for_dataset

ROOT = Path(__file__).parents[2]
IMAGE_COUNTS = [4, 2, 1]
DATASET = "lazy_symbols_train"
# Detectron2's common/models and common/data, small.
MASK_RCNN = """
import detectron2.data.transforms as T
import torch
from detectron2.config import LazyCall as L
from detectron2.data import DatasetMapper, build_detection_train_loader, get_detection_dataset_dicts
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import FPN, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import (
    CascadeROIHeads,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    StandardROIHeads,
)
from detectron2.solver.build import get_default_optimizer_params

pooler = L(ROIPooler)(
    output_size=4, scales=(1 / 4, 1 / 8, 1 / 16, 1 / 32), sampling_ratio=0, pooler_type="ROIAlignV2"
)
box_head = L(FastRCNNConvFCHead)(
    input_shape=ShapeSpec(channels=16, height=4, width=4), conv_dims=[], fc_dims=[32]
)
model = L(GeneralizedRCNN)(
    backbone=L(FPN)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=64, norm="BN"),
            stages=L(ResNet.make_default_stages)(depth=18, norm="BN"),
            out_features=["res2", "res3", "res4", "res5"],
        ),
        in_features="${.bottom_up.out_features}",
        out_channels=16,
        top_block=L(LastLevelMaxPool)(),
    ),
    proposal_generator=L(RPN)(
        in_features=["p2", "p3", "p4", "p5", "p6"],
        head=L(StandardRPNHead)(in_channels=16, num_anchors=1),
        anchor_generator=L(DefaultAnchorGenerator)(
            sizes=[[8], [16], [32], [48], [64]],
            aspect_ratios=[1.0],
            strides=[4, 8, 16, 32, 64],
            offset=0.0,
        ),
        anchor_matcher=L(Matcher)(
            thresholds=[0.3, 0.7], labels=[0, -1, 1], allow_low_quality_matches=True
        ),
        box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
        batch_size_per_image=32,
        positive_fraction=0.5,
        pre_nms_topk=(100, 50),
        post_nms_topk=(50, 20),
        nms_thresh=0.7,
    ),
    roi_heads=L(StandardROIHeads)(
        num_classes=3,
        batch_size_per_image=16,
        positive_fraction=0.25,
        proposal_matcher=L(Matcher)(
            thresholds=[0.5], labels=[0, 1], allow_low_quality_matches=False
        ),
        box_in_features=["p2", "p3", "p4", "p5"],
        box_pooler=pooler,
        box_head=box_head,
        box_predictor=L(FastRCNNOutputLayers)(
            input_shape=ShapeSpec(channels=32),
            test_score_thresh=0.0,
            box2box_transform=L(Box2BoxTransform)(weights=(10, 10, 5, 5)),
            num_classes="${..num_classes}",
        ),
        mask_in_features=["p2", "p3", "p4", "p5"],
        mask_pooler=pooler,
        mask_head=L(MaskRCNNConvUpsampleHead)(
            input_shape=ShapeSpec(channels=16, height=4, width=4),
            num_classes="${..num_classes}",
            conv_dims=[8, 8],
        ),
    ),
    pixel_mean=[103.53, 116.28, 123.675],
    pixel_std=[1.0, 1.0, 1.0],
    input_format="BGR",
)
train_loader = L(build_detection_train_loader)(
    dataset=L(get_detection_dataset_dicts)(names="lvis_v1_train"),
    mapper=L(DatasetMapper)(
        is_train=True,
        augmentations=[L(T.RandomFlip)(horizontal=True)],
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format="bitmask",
    ),
    total_batch_size=2,
    num_workers=0,
)
optimizer = L(torch.optim.SGD)(
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0), lr=0.001, momentum=0.9
)
"""
CASCADE = """
[model.roi_heads.pop(k) for k in ["box_head", "box_predictor", "proposal_matcher"]]
model.roi_heads.update(
    _target_=CascadeROIHeads,
    box_heads=[box_head for _ in range(3)],
    box_predictors=[
        L(FastRCNNOutputLayers)(
            input_shape=ShapeSpec(channels=32),
            test_score_thresh=0.0,
            box2box_transform=L(Box2BoxTransform)(weights=(w1, w1, w2, w2)),
            cls_agnostic_bbox_reg=True,
            num_classes="${...num_classes}",
        )
        for (w1, w2) in [(10, 5), (20, 10), (30, 15)]
    ],
    proposal_matchers=[
        L(Matcher)(thresholds=[th], labels=[0, 1], allow_low_quality_matches=False)
        for th in [0.5, 0.6, 0.7]
    ],
)
"""


@pytest.fixture(scope="module", autouse=True)
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("symbols")
    generate_symbols(
        folder, num_classes=3, image_size=64, image_counts=IMAGE_COUNTS, classes_per_image=2
    )
    register_coco_instances(DATASET, {}, str(folder / "symbols_train.json"), str(folder / "train"))
    yield
    DatasetCatalog.remove(DATASET)
    MetadataCatalog.remove(DATASET)


def test_counts_are_those_of_the_dataset():
    loss = loss_for_dataset("balanced_softmax", DATASET, 3)
    torch.testing.assert_close(
        loss.state_dict(), build_loss("balanced_softmax", 3, image_counts=IMAGE_COUNTS).state_dict()
    )
    assert loss_for_dataset("seesaw", [DATASET], 3, p=0.2).p == 0.2
    with pytest.raises(ValueError, match=f"dataset '{DATASET}' has 3 classes"):
        loss_for_dataset("seesaw", DATASET, 80)


@pytest.mark.parametrize("heads, number", [("", 0), (CASCADE, 1)], ids=["mask_rcnn", "cascade"])
def test_lines_of_the_documentation(tmp_path, heads, number):
    page = (ROOT / "docs" / "training.md").read_text()
    lines = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[number]
    text = f"{MASK_RCNN}{heads}{lines}".replace("lvis_v1_train", DATASET)
    (tmp_path / "config.py").write_text(text)
    # Detectron2's lazyconfig_train_net.py, in short. It saves the config, which can be loaded too.
    LazyConfig.save(LazyConfig.load(str(tmp_path / "config.py")), str(tmp_path / "config.yaml"))
    cfg = LazyConfig.load(str(tmp_path / "config.yaml"))
    model = instantiate(cfg.model).train()
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    predictors = [m for m in model.modules() if isinstance(m, LongTailFastRCNNOutputLayers)]
    assert len(predictors) == (3 if heads else 1)
    assert len({id(predictor.loss) for predictor in predictors}) == len(predictors)
    before = [predictor.cls_score.weight.clone() for predictor in predictors]
    loader = instantiate(cfg.train_loader)
    SimpleTrainer(model, loader, optimizer).train(0, 2)
    for predictor, weight in zip(predictors, before, strict=True):
        assert not torch.equal(predictor.cls_score.weight, weight)
        assert predictor.loss.state_dict() and predictor.cls_score.out_features == 5
    model.eval()
    with torch.no_grad():
        (output,) = model([{"image": torch.zeros(3, 64, 64)}])
    assert output["instances"].has("pred_masks") and len(output["instances"]) > 0
