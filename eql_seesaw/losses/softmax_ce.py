"""Softmax cross entropy, Detectron2's own classification loss."""

import torch
from torch.nn import functional as F

from .base import ClassificationLoss, float32_or_better


class SoftmaxCrossEntropy(ClassificationLoss):
    """
    Cross entropy of a softmax over K classes and background, averaged over all R samples.

    Args:
        num_classes: K. Takes K + 1 logits, background last.
    """

    def __init__(self, num_classes: int):
        super().__init__(num_classes, num_logits=num_classes + 1)

    def losses(
        self,
        logits: torch.Tensor,
        gt_classes: torch.Tensor,
        annotated_classes: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        loss = F.cross_entropy(float32_or_better(logits), gt_classes, reduction="sum")
        return {"loss_cls": loss / max(len(logits), 1)}

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return float32_or_better(logits).softmax(dim=1)
