"""Softmax cross entropy, Detectron2's own classification loss."""

import torch
from torch.nn import functional as F

from .base import SoftmaxLoss, float32_or_better

IGNORED = -100  # a label that is none


class SoftmaxCrossEntropy(SoftmaxLoss):
    """
    Cross entropy of a softmax over K classes and background, averaged over all R samples.

    Args:
        num_classes: K. Takes K + 1 logits, background last; K + 2 with ``objectness``; K without
            ``background``.
        objectness: whether background is a separate foreground / background pair of logits ("CE +
            OBJ" in table 8 of the Seesaw paper, https://arxiv.org/abs/2008.10032).
        background: False for image classification without a background class; there is then no
            objectness either.
    """

    def __init__(self, num_classes: int, *, objectness: bool = False, background: bool = True):
        super().__init__(num_classes, objectness, background)

    def class_loss(
        self, logits: torch.Tensor, gt_classes: torch.Tensor, included: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # A slice costs a copy in the backward pass.
        classes = logits[:, : self.num_columns] if self.objectness else logits
        if included is not None:
            gt_classes = gt_classes.masked_fill(~included, IGNORED)
        loss = F.cross_entropy(
            float32_or_better(classes), gt_classes, ignore_index=IGNORED, reduction="sum"
        )
        return loss, logits[:, self.num_columns :]

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, objectness={self.objectness}"
