"""Detectron2 modules with long-tailed losses; importing this package registers them."""

from .fast_rcnn import (
    EQLFastRCNNOutputLayers,
    LongTailFastRCNNOutputLayers,
    SeesawFastRCNNOutputLayers,
    SoftmaxEQLFastRCNNOutputLayers,
)
from .mask_head import NormedMaskRCNNConvUpsampleHead
from .normed_layers import NormedConv2d, NormedLinear
from .roi_heads import LongTailCascadeROIHeads, LongTailRes5ROIHeads, LongTailROIHeads
from .summary import model_summary

__all__ = [
    "EQLFastRCNNOutputLayers",
    "LongTailCascadeROIHeads",
    "LongTailFastRCNNOutputLayers",
    "LongTailROIHeads",
    "LongTailRes5ROIHeads",
    "NormedConv2d",
    "NormedLinear",
    "NormedMaskRCNNConvUpsampleHead",
    "SeesawFastRCNNOutputLayers",
    "SoftmaxEQLFastRCNNOutputLayers",
    "model_summary",
]
