"""Balanced softmax."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from .base import class_vector
from .softmax import SoftmaxLoss, shifted_softmax


class BalancedSoftmaxLoss(SoftmaxLoss):
    r"""
    Balanced softmax of https://arxiv.org/abs/2007.10740, eq. 3, for a sample of class y:

    .. math:: L = -\log \frac{\rho_y e^{z_y}}{\sum_j \rho_j e^{z_j}}, \qquad
        \rho_j = \frac{n_j}{\frac{1}{K} \sum_k n_k}

    :math:`\rho` is the share of a class among all, beside that in a balanced set. The paper has
    :math:`n_j`, which without background is the same. Background has :math:`\rho = 1`: its share
    of the samples is that of the proposal sampler, in training and in test. Its authors' detector
    has sigmoids in place of the softmax: :class:`~.balanced_sigmoid.BalancedSigmoidLoss`.

    Args:
        num_classes: K.
        image_counts: (K,), n_j, training images that hold each class; 0 counts as 1.
        objectness, background: as for :class:`~.softmax.SoftmaxLoss`.
    """

    log_ratios: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        image_counts: Sequence[float] | None = None,
        objectness: bool = False,
        background: bool = True,
    ):
        super().__init__(num_classes, objectness, background)
        n = class_vector(image_counts, num_classes, "image_counts").clamp(min=1)
        log_ratios = F.pad((n / n.mean()).log(), (0, self.num_columns - num_classes))
        # Not in checkpoints: they follow from the training set.
        self.register_buffer("log_ratios", log_ratios, persistent=False)

    def sample_losses(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        return shifted_softmax(logits, gt_classes, self.log_ratios)

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, objectness={self.objectness}"
