"""Equalization loss v2 (EQL v2)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import computation_dtype
from .sigmoid import SigmoidLossWithBackground, gradient_sums, weighted_sigmoid

# Ratio of a class that has had no gradient yet: far above mu, so that all its weights are 1.
INITIAL_RATIO = 100.0


class EqualizationLossV2(SigmoidLossWithBackground):
    r"""
    Equalization loss v2 of https://arxiv.org/abs/2012.08548:

    .. math::
        L = -\frac{1}{R} \sum_r \sum_j w_{rj} \log \hat p_{rj}, \qquad
        w_{rj} = \begin{cases}
            1 + \alpha (1 - f(g_j)) & y_{rj} = 1 \\
            f(g_j) & y_{rj} = 0
        \end{cases}, \qquad
        f(g) = \frac{1}{1 + e^{-\gamma (g - \mu)}}

    :math:`g_j` is the ratio of the positive to the negative gradients :math:`|\sigma(z_{rj}) -
    y_{rj}|` that class j has had in training so far, before the current step. A last logit,
    "objectness" in the paper, is positive for background; it has weight 1 and no statistics. The
    score of a class is :math:`\sigma(z_j) (1 - \sigma(z_{bg}))`.

    As in the released code, the gradients of the statistics are those after weighting, not divided
    by R; and the bias of the last logit starts as that of the others.

    Args:
        num_classes: K. Takes K + 1 logits, background last.
        gamma: slope of f.
        mu: ratio where f is 1/2.
        alpha: additional weight of the positive terms where f is 0.
        prior_probability: of every class, and of background, at the start of training.

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
        gamma: float = 12.0,
        mu: float = 0.8,
        alpha: float = 4.0,
        prior_probability: float = 0.001,
    ):
        super().__init__(num_classes, prior_probability)
        if gamma <= 0:
            raise ValueError(f"gamma must be positive, got {gamma}")
        if not 0 <= mu < INITIAL_RATIO:
            raise ValueError(f"mu must be in [0, {INITIAL_RATIO:g}), got {mu}")
        if alpha < 0:
            raise ValueError(f"alpha must not be negative, got {alpha}")
        self.gamma = gamma
        self.mu = mu
        self.alpha = alpha
        zeros = torch.zeros(num_classes, dtype=torch.float64, device="cpu")
        self.register_buffer("positive_gradients", zeros)
        self.register_buffer("negative_gradients", zeros.clone())

    def sample_losses(
        self, logits: Tensor, gt_classes: Tensor, annotated_classes: Tensor | None
    ) -> Tensor:
        positive, negative = (w.to(computation_dtype(logits)) for w in self.weights())
        return weighted_sigmoid(logits, gt_classes, lambda rows: negative, positive)

    def logit_statistics(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        positive_weights, negative_weights = self.weights()
        positive, negative = gradient_sums(logits, gt_classes)
        return {
            "positive_gradients": (positive * positive_weights)[:-1],
            "negative_gradients": (negative * negative_weights)[:-1],
        }

    def weights(self) -> tuple[Tensor, Tensor]:
        """Weights of the positive and of the negative terms of each logit, float64 (K + 1,)."""
        ratio = torch.where(
            self.negative_gradients > 0,
            self.positive_gradients / self.negative_gradients,
            INITIAL_RATIO,
        )
        negative = F.pad(torch.sigmoid(self.gamma * (ratio - self.mu)), (0, 1), value=1.0)
        return 1 + self.alpha * (1 - negative), negative

    def extra_repr(self) -> str:
        return (
            f"num_classes={self.num_classes}, gamma={self.gamma}, mu={self.mu}, alpha={self.alpha}"
        )
