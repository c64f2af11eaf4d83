"""Decoupled training (https://arxiv.org/abs/1910.09217): only the classifier learns."""

import logging

from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from .fast_rcnn import LongTailFastRCNNOutputLayers

logger = logging.getLogger(__name__)


def freeze_all_but_classifiers(model: nn.Module) -> None:
    """
    Freeze a detector, batch normalisation included, but for the last classifier layer of each box
    predictor, or, where that has a scale per class or an alignment, but for these (in place).
    """
    model.requires_grad_(False)
    FrozenBatchNorm2d.convert_frozen_batchnorm(model)
    for module in model.modules():
        if isinstance(module, LongTailFastRCNNOutputLayers):
            layer = module.cls_score
            learnt = getattr(layer, "alignment", getattr(layer, "scale", layer))
            learnt.requires_grad_(True)
    sizes = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    total = sum(p.numel() for p in model.parameters())
    logger.info(
        f"Decoupled training: {sum(sizes.values()):,} of {total:,} parameters train: "
        f"{', '.join(sizes)}"
    )
