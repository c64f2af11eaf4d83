"""Backbones of timm and ViTDet: maps, weights to start with, optimizer, what is refused."""

import logging
import re

import numpy as np
import pytest
import torch
from detectron2.modeling import build_backbone, build_model
from detectron2.utils.events import EventStorage

from eql_seesaw.data.dataset_mapper import NamedImageDatasetMapper
from eql_seesaw.engine import LongTailTrainer, build_checkpointer, load_start
from eql_seesaw.engine.checkpoint_files import CheckpointError
from eql_seesaw.modeling.backbones import TimmBackbone
from tests.data.small_images import make_cfg, write_images
from tests.modeling.tiny_model import tiny_config, training_batch

timm = pytest.importorskip("timm")

TIMM, NAME = "MODEL.TIMM", "MODEL.TIMM.NAME"
WITH_TIMM = ["MODEL.BACKBONE.NAME", "build_timm_fpn_backbone"]
WITH_VIT = [
    *("MODEL.BACKBONE.NAME", "build_vitdet_backbone"),
    *("MODEL.VIT.IMAGE_SIZE", 96, "MODEL.VIT.EMBED_DIM", 32),
    *("MODEL.VIT.DEPTH", 4, "MODEL.VIT.NUM_HEADS", 2),
    *("INPUT.MAX_SIZE_TRAIN", 96, "INPUT.MAX_SIZE_TEST", 96),
]
ADAMW = ["SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", 1.0, "SOLVER.WEIGHT_DECAY", 0.5]
SWIN = "swin_tiny_patch4_window7_224"


def config(folder, *overrides):
    return tiny_config(folder, "LongTailROIHeads", *overrides)


@pytest.mark.parametrize("name", ["test_convnext", "test_efficientnet", "test_resnet", SWIN])
def test_maps_are_those_of_timm(name):
    """In images of a size that is not the model's own; those of Swin are NHWC in timm."""
    backbone = TimmBackbone(name, ["res3", "res4", "res5"]).eval()
    images = torch.randn(2, 3, 96, 160)
    with torch.no_grad():
        maps = backbone(images)
        theirs = {x.shape[1:3]: x.permute(0, 3, 1, 2) for x in backbone.net(images)}
    for key, stride in (("res3", 8), ("res4", 16), ("res5", 32)):
        shape = backbone.output_shape()[key]
        assert shape.stride == stride
        assert maps[key].shape == (2, shape.channels, 96 // stride, 160 // stride)
        if name == SWIN:
            assert torch.equal(maps[key], theirs[96 // stride, 160 // stride])


def test_swin_of_any_size_is_swin():
    """Where timm's own classifier takes an image, the maps are the same."""
    size = 448  # the windows of all stages are smaller than their maps: timm shifts them too
    classifier = timm.create_model(SWIN, img_size=size).eval()
    backbone = TimmBackbone(SWIN, ["res2", "res5"]).eval()
    backbone.net.load_state_dict(backbone.renamed(classifier.state_dict()))
    image = torch.randn(1, 3, size, size)
    with torch.no_grad():
        expected = classifier.forward_intermediates(image, norm=False, intermediates_only=True)
        maps = backbone(image)
    assert torch.allclose(maps["res2"], expected[0], atol=1e-5)
    assert torch.allclose(maps["res5"], expected[3], atol=1e-5)


@pytest.mark.parametrize("settings", [[*WITH_TIMM, NAME, "test_efficientnet"], WITH_VIT])
def test_all_of_it_learns(tmp_path, settings):
    """A parameter without a gradient would stop training on several GPUs."""
    model = build_model(config(tmp_path, *settings)).train()
    with EventStorage():
        sum(model(training_batch()).values()).backward()
    backbone = dict(model.backbone.named_parameters())
    assert [key for key, p in backbone.items() if p.requires_grad and p.grad is None] == []
    assert any(p.requires_grad for key, p in backbone.items() if "fpn" not in key)


def test_frozen_batch_normalisation():
    images = torch.randn(2, 3, 64, 64)
    for freeze in (True, False):
        net = TimmBackbone("test_efficientnet", ["res2", "res5"], freeze_bn=freeze).train().net
        before = {key: x.clone() for key, x in net.state_dict().items() if "running" in key}
        net(images)
        assert len(before) > 4
        after = net.state_dict()
        assert all(torch.equal(after[key], x) for key, x in before.items()) == freeze


@pytest.mark.parametrize("extension", ["pth", "safetensors"])
@pytest.mark.parametrize("name", ["test_convnext", "test_resnet"])
def test_weights_of_a_classifier(tmp_path, name, extension, caplog):
    classifier = timm.create_model(name, num_classes=7).eval()
    path = str(tmp_path / f"classifier.{extension}")
    if extension == "pth":
        torch.save(classifier.state_dict(), path)
    else:
        pytest.importorskip("safetensors.torch").save_file(classifier.state_dict(), path)
    cfg = config(tmp_path, *WITH_TIMM, NAME, name)
    model = build_model(cfg).eval()
    with caplog.at_level(logging.WARNING):
        load_start(build_checkpointer(cfg, model), path)
    mean = [round(255 * x, 3) for x in classifier.pretrained_cfg["mean"]]
    assert f"INPUT.FORMAT RGB, MODEL.PIXEL_MEAN {mean}" in caplog.text
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        maps = list(model.backbone.bottom_up(image).values())
        expected = classifier.forward_intermediates(image, norm=False, intermediates_only=True)
    for ours, theirs in zip(maps, expected[-4:], strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_weights_of_another_model(tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "resnet.pth")
    cfg = config(tmp_path, *WITH_TIMM, NAME, "test_convnext")
    checkpointer = build_checkpointer(cfg, build_model(cfg))
    with pytest.raises(CheckpointError, match="are not of timm's test_convnext") as error:
        load_start(checkpointer, str(tmp_path / "resnet.pth"))
    assert "\n" not in str(error.value)


def test_weights_of_timm_are_downloaded_once(tmp_path, monkeypatch):
    """As far as a machine without a network can tell: timm is asked for them, and once."""
    asked = []
    create_model = timm.create_model

    def create(name, pretrained=False, **arguments):
        if pretrained and not arguments:
            asked.append(name)
            pretrained = False
        return create_model(name, pretrained=pretrained, **arguments)

    monkeypatch.setattr(timm, "create_model", create)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    cfg = config(tmp_path, *WITH_TIMM, NAME, "test_convnext")
    models = [build_model(cfg) for _ in range(2)]
    for model in models:
        load_start(build_checkpointer(cfg, model), "timm://test_convnext.r160_in1k")
    assert asked == ["test_convnext.r160_in1k"]
    first, second = (model.backbone.bottom_up.state_dict() for model in models)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_weights_of_a_vit(tmp_path):
    """Names as MAE and timm have them."""
    cfg = config(tmp_path, *WITH_VIT)
    classifier = timm.create_model(
        "vit_tiny_patch16_224", embed_dim=32, depth=4, num_heads=2, num_classes=3
    )
    torch.save({"model": classifier.state_dict()}, tmp_path / "vit.pth")
    model = build_model(cfg)
    load_start(build_checkpointer(cfg, model), str(tmp_path / "vit.pth"))
    loaded = model.backbone.net.state_dict()
    for key, tensor in classifier.state_dict().items():
        if key not in ("cls_token", "norm.weight", "norm.bias", "head.weight", "head.bias"):
            assert torch.equal(loaded[key], tensor), key


def test_adamw_of_a_vit(tmp_path):
    """Rates of the five kinds of layers by hand, and what does not decay."""
    cfg = config(tmp_path, *WITH_VIT, *ADAMW, "SOLVER.LAYER_DECAY", 0.5)
    model = build_model(cfg)
    optimizer = LongTailTrainer.build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    found = {key: groups[id(p)] for key, p in model.named_parameters()}
    assert len(found) == len(groups)
    for key, group in found.items():
        block = re.search(r"backbone\.net\.blocks\.(\d)", key)
        power = 4 - int(block[1]) if block else 5 if key.startswith("backbone.net.") else 0
        assert group["lr"] == 0.5**power, key
        is_exempt = "pos_embed" in key or re.search(r"net\.blocks.*norm", key)
        assert group["weight_decay"] == (0.0 if is_exempt else 0.5), key


def test_adamw_clips_gradients_and_spares_biases(tmp_path):
    cfg = config(
        tmp_path,
        *(*WITH_TIMM, NAME, SWIN, *ADAMW, "SOLVER.WEIGHT_DECAY_BIAS", 0.0),
        *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.25),
    )
    model = build_backbone(cfg)
    optimizer = LongTailTrainer.build_optimizer(cfg, model)
    names = {id(p): key for key, p in model.named_parameters()}
    for group in optimizer.param_groups:
        for p in group["params"]:
            key = names[id(p)]
            spared = key.endswith((".bias", "bias_table")) or ".norm" in key
            assert (group["weight_decay"] == 0) == spared, key
    for p in model.parameters():
        p.grad = torch.full_like(p, 3.0)
    optimizer.step()
    assert all(p.grad.max() == 0.25 for p in model.parameters())


REFUSED = [
    ([*WITH_TIMM, NAME, "convnext_tinyy"], "'convnext_tinyy', .* did you mean convnext_tiny"),
    ([*WITH_TIMM, NAME, "convnext_tiny.fb_in"], "not a model of timm .* did you mean .*fb_in1k"),
    (
        [*WITH_TIMM, NAME, SWIN, "MODEL.BACKBONE.FREEZE_AT", 2],
        "FREEZE_AT is 2, which is of ResNets",
    ),
    ([*WITH_TIMM, NAME, SWIN, "MODEL.FPN.IN_FEATURES", ["p4"]], "name maps by their strides"),
    ([*WITH_TIMM, NAME, SWIN, f"{TIMM}.DROP_PATH_RATE", 1.0], "TIMM.DROP_PATH_RATE is 1.0; it"),
    ([*WITH_VIT, "MODEL.VIT.DROP_PATH_RATE", -0.1], "VIT.DROP_PATH_RATE is -0.1; it must be from"),
    ([*WITH_VIT, "MODEL.VIT.NUM_HEADS", 5], "must be a positive multiple of .*NUM_HEADS, 5"),
    ([*WITH_VIT, "MODEL.VIT.DEPTH", 6], "DEPTH is 6; it must be a multiple of 4"),
    ([*WITH_VIT, "MODEL.VIT.IMAGE_SIZE", 100], "IMAGE_SIZE is 100; it must be a multiple of 32"),
    ([*WITH_VIT, "INPUT.MAX_SIZE_TEST", 97], "MAX_SIZE_TEST is 97; it must be at most .*, 96"),
    (
        [*WITH_VIT, "INPUT.SCALE_JITTER", (0.1, 2.0), "INPUT.MASK_FORMAT", "bitmask"],
        "SCALE_JITTER_SIZE is 1024; it must be at most",
    ),
    ([*WITH_VIT, "SOLVER.LAYER_DECAY", 0.7], "LAYER_DECAY is 0.7, which has an effect only with"),
    (["SOLVER.OPTIMIZER", "Adam"], "OPTIMIZER is 'Adam'; it must be one of SGD, AdamW"),
    (
        ["INPUT.SCALE_JITTER", (2.0, 0.1), "INPUT.MASK_FORMAT", "bitmask"],
        r"SCALE_JITTER is \(2.0, 0.1\); it must be empty or a range",
    ),
]


@pytest.mark.parametrize("overrides, expected", REFUSED, ids=lambda x: str(x)[:30])
def test_refused_values(tmp_path, overrides, expected):
    with pytest.raises(ValueError, match=expected) as error:
        config(tmp_path, *overrides)
    assert "\n" not in str(error.value)


def test_missing_timm(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs timm, which is not installed: pip install timm"):
        config(tmp_path, *WITH_VIT)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("test_vit", r"strides \[16.*\], but MODEL.FPN.IN_FEATURES .* asks for \[4, 8, 16, 32\]"),
        ("maxvit_nano_rw_256", "does not take images of any size .*divisible by window"),
    ],
)
def test_models_without_a_pyramid_or_of_one_size(tmp_path, name, expected):
    with pytest.raises(ValueError, match=expected) as error:
        build_backbone(config(tmp_path, *WITH_TIMM, NAME, name))
    assert "\n" not in str(error.value)


def test_large_scale_jitter(tmp_path):
    """Scaled to the square or less, to a crop of it where larger; boxes are those of the masks."""
    (image,) = write_images(tmp_path, 1)
    cfg = make_cfg()
    cfg.MODEL.MASK_ON, cfg.INPUT.MASK_FORMAT = True, "bitmask"
    cfg.INPUT.SCALE_JITTER, cfg.INPUT.SCALE_JITTER_SIZE = (0.5, 2.0), 96
    mapper = NamedImageDatasetMapper(cfg, True)
    np.random.seed(0)
    sizes = set()
    for _ in range(20):
        mapped = mapper(image)
        sizes.add(tuple(mapped["image"].shape[1:]))
        instances = mapped["instances"]
        boxes = instances.gt_masks.get_bounding_boxes().tensor
        assert torch.equal(instances.gt_boxes.tensor, boxes)
    # 24 x 16 pixels: 96 x 64 at a scale of 1.
    assert max(width for _, width in sizes) == 96 and max(height for height, _ in sizes) > 80
    assert min(width for _, width in sizes) < 64
