"""Balanced sigmoid cross entropy, the form of balanced softmax for detectors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import class_vector, computation_dtype
from .rarity import image_frequencies
from .sigmoid import SigmoidLoss, weighted_sigmoid


class BalancedSigmoidLoss(SigmoidLoss):
    r"""
    Balanced softmax, https://arxiv.org/abs/2007.10740, as its released detector has it, with
    sigmoids:

    .. math:: L = -\frac{1}{R} \sum_r \sum_j \log \hat p_{rj}, \qquad
        p_{rj} = \mathrm{sigmoid}\left(z_{rj} - E(r) \log \frac{1 - f_j}{f_j}\right)

    E(r) is 1 for foreground, 0 for background. The paper trains only the classifier, from a model
    trained with sigmoid cross entropy; its meta sampler is left out.

    Args:
        num_classes: K. Takes K logits; a background sample is a negative of every class.
        image_counts: (K,) training images that hold each class; f_j is their share of
            ``num_images``, a class without any or in all counting as one with or without one.
        num_images: training images with at least one annotation.
        prior_probability: probability of every class at the start of training.
    """

    log_odds: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        image_counts: Sequence[float] | None = None,
        num_images: int | None = None,
        prior_probability: float = 0.001,
    ):
        super().__init__(num_classes, prior_probability)
        n = class_vector(image_counts, num_classes, "image_counts")
        f = image_frequencies(n, num_images)
        assert num_images is not None, "image_frequencies has seen to that"
        # In a set of one image, of which the upper bound is left, all classes are alike.
        f = f.clamp(min=1 / num_images, max=max(1 - 1 / num_images, 0.5))
        # Not in checkpoints: they follow from the training set.
        self.register_buffer("log_odds", f.logit(), persistent=False)

    def sample_losses(
        self, logits: Tensor, gt_classes: Tensor, annotated_classes: Tensor | None
    ) -> Tensor:
        foreground = gt_classes[:, None] < self.num_classes
        log_odds = self.log_odds.to(computation_dtype(logits))

        def offsets(rows: slice) -> Tensor:
            return torch.where(foreground[rows], log_odds, 0.0)

        return weighted_sigmoid(logits, gt_classes, offsets=offsets)
