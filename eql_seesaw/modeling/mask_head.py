"""Mask heads that compute each box's mask of one class, its own."""
# mypy: allow-incomplete-defs

from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import (
    MaskRCNNConvUpsampleHead,
    mask_rcnn_inference,
    mask_rcnn_loss,
)
from detectron2.structures import Instances
from torch import nn
from torch.nn import functional as F

from ..normed_layers import NormedConv2d

# The upsampled features of so many boxes are in memory at a time, beyond what training keeps.
BOXES_AT_A_TIME = 32


@ROI_MASK_HEAD_REGISTRY.register()
class OwnClassMaskRCNNConvUpsampleHead(MaskRCNNConvUpsampleHead):
    """
    Detectron2's mask head in less time and memory where masks are class-specific: of the K masks
    of a box it computes the one that is used, of the ground truth's class in training, of the
    predicted class in inference. Masks, losses, gradients, logged metrics and parameters are
    Detectron2's. Scripted, it computes all masks.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, mask_threshold: float = 0.5, **kwargs: Any):
        """
        Args:
            input_shape, kwargs: as for ``MaskRCNNConvUpsampleHead``.
            mask_threshold: probability from which a pixel belongs to a predicted mask.
        """
        super().__init__(input_shape, **kwargs)
        # Of probabilities, whose threshold Detectron2 has at 0.5; interpolation leaves it there.
        self.mask_scale = 0.5 / mask_threshold

    @classmethod
    def from_config(cls, cfg, input_shape):
        # A project that registers this head alone does not have our keys.
        threshold = cfg.MODEL.ROI_MASK_HEAD.get("MASK_THRESH_TEST", 0.5)
        return {**super().from_config(cfg, input_shape), "mask_threshold": threshold}

    # TorchScript has no hint for a return value whose type depends on the mode.
    def forward(self, x, instances: list[Instances]):  # noqa: ANN201
        """
        Args:
            x: (R, channels, H, W) features of all boxes.
            instances: for each image, with ``gt_classes`` and ``gt_masks`` in training and with
                ``pred_classes`` in inference.

        Returns:
            In training ``{"loss_mask": loss}``; in inference the instances, with ``pred_masks``,
            (Ri, 1, 2H, 2W) probabilities, scaled so that ``mask_threshold`` is at 0.5.
        """
        if torch.jit.is_scripting() or self.predictor.out_channels == 1:
            logits = self.layers(x)
        else:
            logits = self.own_class_logits(x, instances)
        # Detectron2 takes a single mask of each box for a class-agnostic one.
        if self.training:
            return {
                "loss_mask": mask_rcnn_loss(logits, instances, self.vis_period) * self.loss_weight
            }
        mask_rcnn_inference(logits, instances)
        if self.mask_scale != 1.0:
            for detections in instances:
                detections.pred_masks = detections.pred_masks * self.mask_scale
        return instances

    @torch.jit.unused
    def own_class_logits(self, x: torch.Tensor, instances: list[Instances]) -> torch.Tensor:
        """(R, 1, 2H, 2W) logits of each box's own class; arguments as for :meth:`forward`."""
        classes = torch.cat([i.gt_classes if self.training else i.pred_classes for i in instances])
        # Unlike that of weight[classes], the gradient of an embedding is deterministic.
        weight = F.embedding(classes, self.predictor.weight.flatten(1))
        bias = F.embedding(classes, self.predictor.bias[:, None])
        *layers, deconv, deconv_relu, _ = self
        if self.training:
            # Here, as batch normalisation is over all boxes.
            x = nn.Sequential(*layers)(x)
            layers = []
        upsample = nn.Sequential(*layers, deconv, deconv_relu)
        if torch.jit.is_tracing():  # a loop's length would become a constant
            return self.own_class_predictor(upsample(x), weight, bias)
        blocks = zip(*(tensor.split(BOXES_AT_A_TIME) for tensor in (x, weight, bias)), strict=True)
        return torch.cat([self.own_class_predictor(upsample(x), *rows) for x, *rows in blocks])

    def own_class_predictor(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """
        Args:
            x: (R, C, H, W) upsampled features.
            weight, bias: (R, C) and (R, 1), the predictor's for the class of each box.

        Returns:
            (R, 1, H, W) logits.
        """
        logits = torch.baddbmm(bias[:, None], weight[:, None], x.flatten(2))
        return logits.unflatten(2, x.shape[2:])


@ROI_MASK_HEAD_REGISTRY.register()
class NormedMaskRCNNConvUpsampleHead(OwnClassMaskRCNNConvUpsampleHead):
    """
    Mask head whose last 1x1 convolution is normalised: "Norm Mask" of
    https://arxiv.org/abs/2008.10032.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, temperature: float = 20.0, **kwargs: Any):
        """
        Args:
            input_shape, kwargs: as for ``MaskRCNNConvUpsampleHead``.
            temperature: tau of the normalised predictor.
        """
        super().__init__(input_shape, **kwargs)
        channels, num_masks = self.predictor.in_channels, self.predictor.out_channels
        predictor = NormedConv2d(channels, num_masks, 1, temperature)
        # Not the plain head's 0.001: the smaller a normalised weight, the larger its gradient.
        nn.init.kaiming_normal_(predictor.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(predictor.bias)
        self.add_module("predictor", predictor)

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg, input_shape)
        ret["temperature"] = cfg.MODEL.ROI_MASK_HEAD.TEMPERATURE
        return ret

    def own_class_predictor(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """As the base class, on normalised features and weight."""
        x, weight = self.predictor.normalised(x, weight)
        return super().own_class_predictor(x, weight, bias)
