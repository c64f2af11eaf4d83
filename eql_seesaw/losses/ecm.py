"""Effective class-margin loss (ECM)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import class_vector, computation_dtype
from .links import SigmoidLink
from .sigmoid import SigmoidLossWithBackground, weighted_sigmoid


class DoubledSigmoid(SigmoidLink):
    """Terms of twice the logit."""

    def negative(self, logits: Tensor, classes: Tensor | slice) -> Tensor:
        return super().negative(2 * logits, classes)

    def negative_derivative(self, logits: Tensor, classes: Tensor | slice) -> Tensor:
        return 2 * super().negative_derivative(2 * logits, classes)


class EffectiveClassMarginLoss(SigmoidLossWithBackground):
    r"""
    Effective class-margin loss of https://arxiv.org/abs/2301.09724. Background is one more sigmoid,
    the last logit. Of N samples :math:`n_j` are of class j and :math:`n^-_j` are not:

    .. math::
        L = -\frac{1}{R} \sum_r \sum_{j=1}^{K+1} \omega_j \log \hat p_{rj}, \qquad
        p_{rj} = \mathrm{sigmoid}\left(2 z_{rj} + \tfrac14 \log \frac{n_j}{n^-_j}\right), \qquad
        \omega_j = a_j \log \frac{1 + a_j}{a_j}, \; a_j = \frac{n^-_j}{n_j}

    This is the released code, whose p is a quotient of exponentials with a margin each. The score
    of a class is :math:`\sigma(z_j) (1 - \sigma(z_{bg}))`, without factor and margin, as there.

    Args:
        num_classes: K. Takes K + 1 logits.
        image_counts: (K,), n_j, training images that hold each class; 0 counts as 1.
        background_ratio: background samples for each sample of a class. The default is that of
            Mask R-CNN's proposal sampler on LVIS, as the authors measured it.
    """

    normed_classifier = True
    counts: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        image_counts: Sequence[float] | None = None,
        background_ratio: float = 6.3313,
    ):
        # Its classifier starts with bias 0.
        super().__init__(num_classes, prior_probability=0.5)
        if background_ratio <= 0:
            raise ValueError(f"background_ratio must be positive, got {background_ratio}")
        self.background_ratio = background_ratio
        n = class_vector(image_counts, num_classes, "image_counts").clamp(min=1)
        counts = torch.cat([n, background_ratio * n.sum()[None]])
        # Not in checkpoints: they follow from the training set.
        self.register_buffer("counts", counts, persistent=False)

    def sample_losses(
        self, logits: Tensor, gt_classes: Tensor, annotated_classes: Tensor | None
    ) -> Tensor:
        dtype = computation_dtype(logits)
        a = (self.counts.sum() - self.counts) / self.counts
        omega = (a * (1 / a).log1p()).to(dtype)
        half_margins = (-a.log() / 8).to(dtype)
        return weighted_sigmoid(
            logits,
            gt_classes,
            weights=lambda rows: omega,
            own_weights=omega,
            link=DoubledSigmoid(),
            offsets=lambda rows: half_margins,
        )

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, background_ratio={self.background_ratio}"
