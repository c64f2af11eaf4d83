"""Mask head with the normalised predictor of Seesaw's "Norm Mask"."""

from typing import Any

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from torch import nn

from .normed_layers import NormedConv2d


@ROI_MASK_HEAD_REGISTRY.register()
class NormedMaskRCNNConvUpsampleHead(MaskRCNNConvUpsampleHead):
    """
    Detectron2's mask head whose last 1x1 convolution is normalised: "Norm Mask" of
    https://arxiv.org/abs/2008.10032.
    """

    predictor: NormedConv2d

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, temperature: float = 20.0, **kwargs: Any):
        """
        Args:
            input_shape, kwargs: as for ``MaskRCNNConvUpsampleHead``.
            temperature: tau of the normalised predictor.
        """
        super().__init__(input_shape, **kwargs)
        plain = self.predictor
        self.predictor = NormedConv2d(plain.in_channels, plain.out_channels, 1, temperature)
        # Not the plain head's 0.001: the smaller a normalised weight, the larger its gradient.
        nn.init.kaiming_normal_(self.predictor.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg, input_shape)
        ret["temperature"] = cfg.MODEL.ROI_MASK_HEAD.TEMPERATURE
        return ret
