"""Logit-adjusted softmax cross entropy."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from .base import class_vector
from .softmax import SoftmaxLoss, shifted_softmax


class LogitAdjustmentLoss(SoftmaxLoss):
    r"""
    Logit-adjusted loss of https://arxiv.org/abs/2007.07314, eq. 10, for a sample of class y:

    .. math:: L = -\log \frac{e^{z_y + \tau \log \pi_y}}{\sum_j e^{z_j + \tau \log \pi_j}}, \qquad
        \pi_j = \frac{n_j}{\sum_k n_k}

    Background, which the paper does not know, is not adjusted; so training lowers all classes
    beside it, by :math:`\tau \log K` more than :class:`~.balanced_softmax.BalancedSoftmaxLoss`,
    and in test they are higher. Without background and with :math:`\tau = 1` the two are the same.

    Args:
        num_classes: K.
        image_counts: (K,), n_j, training images that hold each class; 0 counts as 1.
        tau: strength; 0 is softmax cross entropy.
        objectness, background: as for :class:`~.softmax.SoftmaxLoss`.
    """

    log_priors: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        image_counts: Sequence[float] | None = None,
        tau: float = 1.0,
        objectness: bool = False,
        background: bool = True,
    ):
        super().__init__(num_classes, objectness, background)
        if tau < 0:
            raise ValueError(f"tau must not be negative, got {tau}")
        self.tau = tau
        n = class_vector(image_counts, num_classes, "image_counts").clamp(min=1)
        log_priors = F.pad((n / n.sum()).log(), (0, self.num_columns - num_classes))
        # Not in checkpoints: they follow from the training set.
        self.register_buffer("log_priors", log_priors, persistent=False)

    def sample_losses(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return shifted_softmax(logits, gt_classes, self.tau * self.log_priors)

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, tau={self.tau}, objectness={self.objectness}"
