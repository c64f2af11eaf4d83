"""Softmax cross entropy, Detectron2's own classification loss."""

from torch import Tensor
from torch.nn import functional as F

from .base import float32_or_better
from .softmax import SoftmaxLoss


class SoftmaxCrossEntropy(SoftmaxLoss):
    """
    Cross entropy of a softmax over K classes and background, averaged over all R samples.

    Args:
        num_classes: K.
        objectness, background: as for :class:`~.softmax.SoftmaxLoss`; with objectness it is "CE +
            OBJ" in table 8 of the Seesaw paper, https://arxiv.org/abs/2008.10032.
    """

    def __init__(self, num_classes: int, *, objectness: bool = False, background: bool = True):
        super().__init__(num_classes, objectness, background)

    def sample_losses(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return F.cross_entropy(float32_or_better(logits), gt_classes, reduction="none")

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, objectness={self.objectness}"
