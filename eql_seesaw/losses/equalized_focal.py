"""Equalized focal loss (EFL)."""

import torch
from torch import Tensor

from .base import computation_dtype
from .focal import FocalTerms
from .sigmoid import SigmoidLoss, gradient_sums, weighted_sigmoid


class EqualizedFocalLoss(SigmoidLoss):
    r"""
    Equalized focal loss of https://arxiv.org/abs/2201.02593, eq. 5 to 7: focal loss whose rare
    classes, those with more negative than positive gradients, focus more:

    .. math::
        L = -\frac{1}{R} \sum_r \sum_j \alpha_{rj} \, \frac{\gamma_j}{\gamma_b} \,
            (1 - \hat p_{rj})^{\gamma_j} \log \hat p_{rj}, \qquad
        \gamma_j = \gamma_b + s (1 - g_j), \qquad g_j = \min(1, G^+_j / G^-_j)

    with :math:`\hat p = p` and :math:`\alpha_{rj} = \alpha` for the sample's own class,
    :math:`\hat p = 1 - p` and :math:`\alpha_{rj} = 1 - \alpha` for the others. :math:`G^+_j` and
    :math:`G^-_j` are the absolute gradients that the positive and the negative terms of class j
    have had in training so far, before the current step; without any, :math:`g_j = 1`, so that
    training starts with focal loss. They are computed in closed form rather than by a hook.

    As :class:`~.focal.FocalLoss` it is divided by all R samples, where the released code, a
    one-stage detector's, divides by the foreground ones. The gradients of the statistics are not
    divided: a divisor that is the same in all steps would cancel out in their ratio.

    Args:
        num_classes: K. Takes K logits; a background sample is a negative of every class.
        alpha: weight of the positive terms; 1 - alpha is that of the negative ones.
        gamma: gamma_b, the exponent of a class with as many positive as negative gradients.
        scale: s, what the exponent of a class with negative gradients only has more.
        prior_probability: probability of every class at the start of training.

    Attributes:
        positive_gradients, negative_gradients (Tensor): float64 (K,), cumulative, summed over
            ranks; in checkpoints.
    """

    positive_gradients: Tensor
    negative_gradients: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        alpha: float = 0.25,
        gamma: float = 2.0,
        scale: float = 8.0,
        prior_probability: float = 0.001,
    ):
        super().__init__(num_classes, prior_probability)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        if gamma <= 0:
            raise ValueError(f"gamma must be positive, got {gamma}")
        if scale < 0:
            raise ValueError(f"scale must not be negative, got {scale}")
        self.alpha = alpha
        self.gamma = gamma
        self.scale = scale
        zeros = torch.zeros(num_classes, dtype=torch.float64, device="cpu")
        self.register_buffer("positive_gradients", zeros)
        self.register_buffer("negative_gradients", zeros.clone())

    def exponents(self) -> Tensor:
        """gamma_j, float64 (K,)."""
        share = self.positive_gradients / self.negative_gradients
        ratio = torch.where(self.negative_gradients > 0, share, 1.0).clamp(max=1)
        return self.gamma + self.scale * (1 - ratio)

    def sample_losses(
        self, logits: Tensor, gt_classes: Tensor, annotated_classes: Tensor | None
    ) -> Tensor:
        exponents = self.exponents().to(computation_dtype(logits))
        weights = exponents / self.gamma
        return weighted_sigmoid(
            logits,
            gt_classes,
            weights=lambda rows: (1 - self.alpha) * weights,
            own_weights=self.alpha * weights,
            link=FocalTerms(exponents),
        )

    def logit_statistics(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        exponents = self.exponents()
        link = FocalTerms(exponents.to(computation_dtype(logits)))
        positive, negative = gradient_sums(logits, gt_classes, link)
        weights = exponents / self.gamma
        return {
            "positive_gradients": positive * self.alpha * weights,
            "negative_gradients": negative * (1 - self.alpha) * weights,
        }

    def extra_repr(self) -> str:
        return (
            f"num_classes={self.num_classes}, alpha={self.alpha}, gamma={self.gamma}, "
            f"scale={self.scale}"
        )
