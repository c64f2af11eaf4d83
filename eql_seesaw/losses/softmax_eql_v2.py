"""Gradient-driven softmax equalization loss."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import computation_dtype
from .row_blocks import row_blocks
from .softmax import SoftmaxLoss, own_log_probabilities, shifted_softmax

# Lowest sum of gradients. 1e-4 in the released code, where they are divided by the samples of a
# step: here it is that of 512, an image's proposals.
GRADIENT_FLOOR = 0.05


class SoftmaxEqualizationLossV2(SoftmaxLoss):
    r"""
    Gradient-driven softmax equalization loss of https://arxiv.org/abs/2210.05566, for a sample of
    class y:

    .. math::
        L = -\log \frac{e^{z_y}}{\sum_j (g_j / g_y)^\tau e^{z_j}}, \qquad
        g_j = \frac{G_j}{\frac{1}{K} \sum_k G_k}

    :math:`G_j` is the sum of the positive gradients :math:`|\partial L_r / \partial z_{rj}|`, those
    from its own samples, that class j has had in training so far, before the current step. Unlike
    Seesaw's mitigation factor, a ratio may be above 1, so that samples of a rare class push
    frequent ones the harder.

    The paper calls it softmax-EQL, which is the name of another loss of 2020,
    :class:`~.softmax_eql.SoftmaxEqualizationLoss`; as EQL v2 among the losses with sigmoids, it is
    the one driven by gradients. Its released code is for image classification. Background, which
    that does not know, has :math:`g = 1`, as in :class:`~.balanced_softmax.BalancedSoftmaxLoss`.
    Without background the mean cancels out, and it is the released code's.

    Args:
        num_classes: K.
        tau: strength; 0 is softmax cross entropy.
        objectness, background: as for :class:`~.softmax.SoftmaxLoss`.

    Attributes:
        positive_gradients (Tensor): float64 (K,), G, cumulative, summed over ranks; in checkpoints.
    """

    positive_gradients: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        tau: float = 1.0,
        objectness: bool = False,
        background: bool = True,
    ):
        super().__init__(num_classes, objectness, background)
        if tau < 0:
            raise ValueError(f"tau must not be negative, got {tau}")
        self.tau = tau
        zeros = torch.zeros(num_classes, dtype=torch.float64, device="cpu")
        self.register_buffer("positive_gradients", zeros)

    def shifts(self) -> Tensor:
        """tau log g, float64 (C,), of the classes and of background in the softmax."""
        gradients = self.positive_gradients.clamp(min=GRADIENT_FLOOR)
        log_g = (gradients / gradients.mean()).log()
        return self.tau * F.pad(log_g, (0, self.num_columns - self.num_classes))

    def sample_losses(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return shifted_softmax(logits, gt_classes, self.shifts())

    def logit_statistics(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        shifts = self.shifts().to(computation_dtype(logits))
        sums = self.positive_gradients.new_zeros(self.num_classes + 1)
        for rows in row_blocks(logits):
            z = logits[rows, : self.num_columns] + shifts
            log_p = own_log_probabilities(z, gt_classes[rows])
            sums.scatter_add_(0, gt_classes[rows], -torch.expm1(log_p))  # 1 - p_y
        return {"positive_gradients": sums[: self.num_classes]}

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, tau={self.tau}, objectness={self.objectness}"
