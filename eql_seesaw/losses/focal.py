"""Sigmoid focal loss."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .sigmoid import SigmoidLoss, weighted_sigmoid


class FocalLoss(SigmoidLoss):
    r"""
    Focal loss of https://arxiv.org/abs/1708.02002, eq. 5, over K independent sigmoids:

    .. math::
        L = -\frac{1}{R} \sum_r \sum_j \alpha_{rj} (1 - \hat p_{rj})^\gamma \log \hat p_{rj}

    with :math:`\hat p = p` and :math:`\alpha_{rj} = \alpha` for the sample's own class,
    :math:`\hat p = 1 - p` and :math:`\alpha_{rj} = 1 - \alpha` for the others.

    The sum is divided by all R samples, as the sigmoid cross entropy that the EQL paper compares it
    with (table 5). The focal loss paper, whose detector has no proposals, divides by the number of
    foreground samples.

    Args:
        num_classes: K. Takes K logits; a background sample is a negative of every class.
        alpha: weight of the positive terms; 1 - alpha is that of the negative ones.
        gamma: exponent of the modulating factor; 0 switches it off.
        prior_probability: probability of every class at the start of training.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        alpha: float = 0.25,
        gamma: float = 2.0,
        prior_probability: float = 0.001,
    ):
        super().__init__(num_classes, prior_probability)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        if gamma < 0:
            raise ValueError(f"gamma must not be negative, got {gamma}")
        self.alpha = alpha
        self.gamma = gamma

    def sample_losses(
        self, logits: Tensor, gt_classes: Tensor, annotated_classes: Tensor | None
    ) -> Tensor:
        return weighted_sigmoid(
            logits,
            gt_classes,
            weights=lambda rows: 1 - self.alpha,
            own_weights=logits.new_full((self.num_classes,), self.alpha),
            term=self.negative_term,
            derivative=self.derivative,
        )

    def negative_term(self, logits: Tensor) -> Tensor:
        """p^gamma * -log(1 - p)."""
        return F.softplus(logits, threshold=40) * logits.sigmoid() ** self.gamma

    def derivative(self, logits: Tensor) -> Tensor:
        """That of the negative term by the logit."""
        p = logits.sigmoid()
        losses = F.softplus(logits, threshold=40)
        return p**self.gamma * torch.addcmul(p, 1 - p, losses, value=self.gamma)

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, alpha={self.alpha}, gamma={self.gamma}"
