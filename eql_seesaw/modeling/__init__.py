"""Detectron2 modules with long-tailed losses; importing this package registers them."""

from ..normed_layers import NormedConv2d, NormedLinear
from .backbones import build_timm_fpn_backbone, build_vitdet_backbone
from .calibration import Calibration
from .class_gradients import ClassGradients
from .decoupled import freeze_all_but_classifiers
from .fast_rcnn import (
    EQLFastRCNNOutputLayers,
    LongTailFastRCNNOutputLayers,
    SeesawFastRCNNOutputLayers,
    SoftmaxEQLFastRCNNOutputLayers,
)
from .loss_for_dataset import loss_for_dataset
from .mask_head import NormedMaskRCNNConvUpsampleHead, OwnClassMaskRCNNConvUpsampleHead
from .roi_heads import LongTailCascadeROIHeads, LongTailRes5ROIHeads, LongTailROIHeads
from .scaled_linear import ScaledLinear, ScaledNormedLinear
from .summary import model_summary, protection_doubts

__all__ = [
    "Calibration",
    "ClassGradients",
    "EQLFastRCNNOutputLayers",
    "LongTailCascadeROIHeads",
    "LongTailFastRCNNOutputLayers",
    "LongTailROIHeads",
    "LongTailRes5ROIHeads",
    "NormedConv2d",
    "NormedLinear",
    "NormedMaskRCNNConvUpsampleHead",
    "OwnClassMaskRCNNConvUpsampleHead",
    "ScaledLinear",
    "ScaledNormedLinear",
    "SeesawFastRCNNOutputLayers",
    "SoftmaxEQLFastRCNNOutputLayers",
    "build_timm_fpn_backbone",
    "build_vitdet_backbone",
    "freeze_all_but_classifiers",
    "loss_for_dataset",
    "model_summary",
    "protection_doubts",
]
