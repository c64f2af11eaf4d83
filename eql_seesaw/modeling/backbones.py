"""
Backbones beside Detectron2's ResNets, by MODEL.BACKBONE.NAME: timm's models under Detectron2's FPN,
and Detectron2's ViT with its simple feature pyramid. timm, which both need, is imported when such a
model is built.
"""

import functools
import os
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, SimpleFeaturePyramid, ViT
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler, get_cache_dir
from torch import nn

from ..atomic_write import atomic_file

# Of images that a backbone must accept, which no timm model has as its own size.
PROBED_SIZE = (256, 320)
# Arguments with which timm builds a model for images of any size: most take none. Windows of Swin
# are shifted in all stages only if they are always partitioned.
ANY_SIZE: tuple[dict[str, Any], ...] = (
    {},
    {"strict_img_size": False, "always_partition": True},
)


class TimmBackbone(Backbone):
    """
    Feature maps of a timm model.

    Args:
        name: of the model, of ``timm.list_models()``; its weights are those of initialisation.
        out_features: maps to return, "res2" for stride 4, "res3" for 8, and so on.
        drop_path_rate: stochastic depth of the last block.
        freeze_bn: whether batch normalisation, if the model has any, uses its running statistics
            and does not learn, like Detectron2's FrozenBN.

    Raises:
        ValueError: the model has no such maps, or takes images of one size only.
    """

    def __init__(
        self,
        name: str,
        out_features: Sequence[str],
        drop_path_rate: float = 0.0,
        freeze_bn: bool = True,
    ):
        super().__init__()
        from timm.utils.model import freeze_batch_norm_2d

        self.name = name
        self.arguments = _arguments(name, tuple(out_features))
        rate = {"drop_path_rate": drop_path_rate} if drop_path_rate else {}
        net = _create(name, **self.arguments, **rate)
        info = net.feature_info
        self.is_nhwc = getattr(net, "output_fmt", None) == "NHWC"
        self.pretrained_cfg = net.pretrained_cfg
        self.net: nn.Module = freeze_batch_norm_2d(net) if freeze_bn else net
        self._out_features = list(out_features)
        self._out_feature_channels = dict(zip(out_features, info.channels(), strict=True))
        self._out_feature_strides = dict(zip(out_features, info.reduction(), strict=True))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map images (N, 3, H, W) to {name: (N, C, H / stride, W / stride)}."""
        maps = dict(zip(self._out_features, self.net(x), strict=True))
        if self.is_nhwc:
            maps = {name: x.permute(0, 3, 1, 2) for name, x in maps.items()}
        return maps

    def renamed(self, weights: dict[str, Any]) -> dict[str, Any]:
        """
        Weights of timm's classifier of this name, or of the repository of its authors where timm
        reads those, by their names in ``net``.

        Raises:
            ValueError: they are of another model.
        """
        overlay = {"state_dict": dict(weights)}
        try:
            net = _create(
                self.name, pretrained=True, pretrained_cfg_overlay=overlay, **self.arguments
            )
        except (AttributeError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"are not of timm's {self.name} ({reason[:200]})") from None
        names = self.net.state_dict().keys()
        return {key: tensor for key, tensor in net.state_dict().items() if key in names}

    def normalisation(self) -> dict[str, list[float]]:
        """{"mean": of RGB values, 0 to 255, that its weights were trained with, "std": theirs}"""
        cfg = self.pretrained_cfg
        return {key: [round(255 * x, 3) for x in cfg[key]] for key in ("mean", "std")}


def _create(name: str, **arguments: Any) -> Any:
    import timm

    return timm.create_model(name, features_only=True, **arguments)


@functools.cache
def _arguments(name: str, out_features: tuple[str, ...]) -> dict[str, Any]:
    """Arguments of timm.create_model for these maps of images of any size."""
    strides = [2 ** int(feature.removeprefix("res")) for feature in out_features]
    errors = []
    for arguments in ANY_SIZE:
        with torch.device("meta"):
            try:
                found = _create(name, **arguments).feature_info.reduction()
                if not set(strides) <= set(found):
                    raise ValueError(
                        f"MODEL.TIMM.NAME: {name} has feature maps of strides {found}, but "
                        f"MODEL.FPN.IN_FEATURES {list(out_features)} asks for {strides}"
                    )
                indices = tuple(found.index(stride) for stride in strides)
                _create(name, out_indices=indices, **arguments)(torch.empty(1, 3, *PROBED_SIZE))
                return {"out_indices": indices, **arguments}
            except (AssertionError, RuntimeError, TypeError) as reason:
                errors.append(reason)
    raise ValueError(
        f"MODEL.TIMM.NAME: {name} does not take images of any size ({errors[0]}); choose "
        "another model"
    )


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build Detectron2's FPN on the model of MODEL.TIMM."""
    timm, fpn = cfg.MODEL.TIMM, cfg.MODEL.FPN
    return FPN(
        TimmBackbone(timm.NAME, fpn.IN_FEATURES, timm.DROP_PATH_RATE, timm.FREEZE_BN),
        in_features=fpn.IN_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=fpn.FUSE_TYPE,
    )


@BACKBONE_REGISTRY.register()
def build_vitdet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SimpleFeaturePyramid:
    """
    Build Detectron2's ViTDet (https://arxiv.org/abs/2203.16527): a ViT with patches of 16 pixels
    and windows of 14 patches, but for the last block of each quarter, which attends to all patches.
    """
    vit = cfg.MODEL.VIT
    quarter = vit.DEPTH // 4
    net = ViT(
        img_size=vit.IMAGE_SIZE,
        embed_dim=vit.EMBED_DIM,
        depth=vit.DEPTH,
        num_heads=vit.NUM_HEADS,
        drop_path_rate=vit.DROP_PATH_RATE,
        norm_layer=functools.partial(nn.LayerNorm, eps=1e-6),
        window_size=14,
        window_block_indexes=[i for i in range(vit.DEPTH) if (i + 1) % quarter],
        use_rel_pos=True,
    )
    return SimpleFeaturePyramid(
        net,
        in_feature="last_feat",
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        scale_factors=(4.0, 2.0, 1.0, 0.5),
        top_block=LastLevelMaxPool(),
        norm="LN",
        square_pad=vit.IMAGE_SIZE,
    )


def pretrained_backbone(model: nn.Module, weights: dict[str, Any]) -> dict[str, Any] | None:
    """
    Weights of a classifier by their names in a detector with one of these backbones.

    Args:
        model: the detector.
        weights: of a file.

    Returns:
        None where the backbone is another, or the weights are a detector's.

    Raises:
        ValueError: the weights are of another model.
    """
    if any("backbone." in key for key in weights):
        return None
    for prefix, module in model.named_modules():
        if isinstance(module, TimmBackbone):
            weights, prefix = module.renamed(weights), f"{prefix}.net"
        elif not isinstance(module, ViT):
            continue
        return {f"{prefix}.{key}": tensor for key, tensor in weights.items()}
    return None


def normalisation_doubt(model: Any) -> str:
    """Difference of a detector's images from those of its timm backbone's own training, or ""."""
    for module in model.modules():
        if isinstance(module, TimmBackbone):
            theirs = module.normalisation()
            is_same = model.input_format == "RGB" and all(
                torch.allclose(getattr(model, f"pixel_{key}").flatten().cpu(), torch.tensor(values))
                for key, values in theirs.items()
            )
            if not is_same:
                return (
                    f"{module.name} was trained with INPUT.FORMAT RGB, MODEL.PIXEL_MEAN "
                    f"{theirs['mean']} and MODEL.PIXEL_STD {theirs['std']}: set these"
                )
    return ""


class TimmHandler(PathHandler):
    """
    Makes timm's pre-trained weights files for Detectron2's checkpointer: MODEL.WEIGHTS
    timm://convnext_tiny.fb_in1k. They are downloaded once.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return ["timm://"]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        import timm

        name = path.removeprefix("timm://")
        local = os.path.join(get_cache_dir(), "timm", f"{name.replace('/', '_')}.pth")
        if force or not os.path.exists(local):
            try:
                weights = timm.create_model(name, pretrained=True).state_dict()
            except Exception as error:  # of whatever timm downloads with
                reason = str(error).strip().partition("\n")[0]
                raise OSError(f"timm has no weights {name}: {reason}") from error
            os.makedirs(os.path.dirname(local), exist_ok=True)
            with atomic_file(local, "wb") as f:
                torch.save(weights, f)
        return local


PathManager.register_handler(TimmHandler(), allow_override=True)
