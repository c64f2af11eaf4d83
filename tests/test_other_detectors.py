"""The detectors of docs/other_detectors.md train, each as its block there has it."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.events import EventStorage

PAGE = (Path(__file__).parents[1] / "docs" / "other_detectors.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def train(model, compute_loss, learning_rate):
    """Losses of a few steps on one batch."""
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    values = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = compute_loss()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values


def test_mask_rcnn_of_torchvision(monkeypatch):
    import torchvision

    build = torchvision.models.detection.maskrcnn_resnet50_fpn
    small = {"min_size": 64, "max_size": 64}
    monkeypatch.setattr(
        torchvision.models.detection, "maskrcnn_resnet50_fpn", lambda **x: build(**x, **small)
    )
    names = {}
    exec(BLOCKS[0], names)
    model = names["model"]
    model.roi_heads.fg_bg_sampler.batch_size_per_image = 32
    loss = model.roi_heads.box_predictor.loss
    images = [torch.rand(3, 64, 64)]
    masks = torch.zeros(2, 64, 64, dtype=torch.uint8)
    boxes = torch.tensor([[4.0, 4, 30, 40], [20, 10, 60, 50]])
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 20]), "masks": masks}]
    seen = []

    def compute_loss():
        losses = model(images, targets)
        assert "loss_classifier" not in losses
        seen.append(losses["loss_cls"].item())
        return sum(losses.values())

    values = train(model, compute_loss, 1e-4)
    assert values[-1] < values[0] and seen[-1] < seen[0]
    # Labels 1 and 20 are classes 0 and 19, which Seesaw has counted.
    counts = loss.sample_counts()
    assert counts[0] > 0 and counts[19] > 0 and counts.sum() == counts[0] + counts[19]

    model.eval()
    with torch.no_grad():
        (detections,) = model(images)
        predictor = model.roi_heads.box_predictor
        probabilities = loss.probabilities(predictor.logits)
    # The scores are the loss's probabilities, of the labels that they are said to be of.
    differences = probabilities[:, detections["labels"] - 1] - detections["scores"]
    assert differences.numel() and (differences.abs().amin(dim=0) < 1e-6).all()


@pytest.fixture
def dataset():
    """A registered dataset with 3 classes, in 6, 2 and 1 of its images."""
    name = "other_detectors_train"
    box = {"bbox": [4, 4, 30, 30], "bbox_mode": BoxMode.XYXY_ABS, "iscrowd": 0}
    images = [
        {"file_name": "", "image_id": i, "height": 64, "width": 64}
        | {"annotations": [{**box, "category_id": c} for c in range(1 + (i < 2) + (i < 1))]}
        for i in range(6)
    ]
    DatasetCatalog.register(name, lambda: images)
    MetadataCatalog.get(name).set(thing_classes=["a", "b", "c"])
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_retinanet_of_detectron2(dataset):
    exec(BLOCKS[1], {"__name__": "retinanet"})
    try:
        cfg = get_cfg()
        cfg.MODEL.META_ARCHITECTURE = "LongTailRetinaNet"
        cfg.MODEL.DEVICE = "cpu"
        cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
        cfg.MODEL.RESNETS.DEPTH = 18
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
        cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
        cfg.MODEL.RETINANET.NUM_CLASSES = 3
        cfg.DATASETS.TRAIN = (dataset,)
        model = build_model(cfg)
    finally:
        META_ARCH_REGISTRY._obj_map.pop("LongTailRetinaNet")
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor([[4.0, 4, 40, 40], [20, 10, 60, 50]]))
    instances.gt_classes = torch.tensor([0, 2])
    batch = [{"image": torch.randint(0, 255, (3, 64, 64)), "instances": instances}]
    with EventStorage():
        values = train(model, lambda: model(batch)["loss_cls"], 1e-4)
    assert values[-1] < values[0]


def test_detr_of_transformers():
    transformers = pytest.importorskip("transformers")
    names = {}
    exec(BLOCKS[2], names)
    config = transformers.DeformableDetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=transformers.ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 8, 8, 8],
            depths=[1, 1, 1, 1],
            out_features=["stage2", "stage3", "stage4"],
        ),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=10,
        num_labels=20,
    )
    model = transformers.DeformableDetrForObjectDetection(config)
    loss = names["criterion"].loss
    for layer in model.class_embed:
        loss.init_classifier(layer)
    model.loss_function = names["loss_function"]
    pixels = torch.rand(1, 3, 128, 128)
    boxes = torch.tensor([[0.3, 0.3, 0.4, 0.5], [0.6, 0.5, 0.6, 0.6]])
    labels = [{"class_labels": torch.tensor([0, 15]), "boxes": boxes}]
    values = train(model, lambda: model(pixel_values=pixels, labels=labels).loss, 1e-3)
    assert values[-1] < values[0]
