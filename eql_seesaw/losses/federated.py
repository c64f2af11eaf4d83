"""Federated loss."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import class_vector
from .sigmoid import SigmoidLoss, weighted_sigmoid


class FederatedLoss(SigmoidLoss):
    r"""
    Federated loss of CenterNet2, https://arxiv.org/abs/2103.07461, as in its released code and in
    Detic: sigmoid cross entropy over a subset S of the classes, drawn anew in each step,

    .. math::
        L = -\frac{1}{R} \sum_r \sum_{j \in S} \log \hat p_{rj}

    S holds the classes of the batch and, up to ``num_sampled``, other classes drawn without
    replacement with probability proportional to a power of their image counts. As in the released
    code, background counts as one of the ``num_sampled`` where the batch has some. Each rank draws
    for its own batch.

    Args:
        num_classes: K. Takes K logits; a background sample is a negative of every class in S.
        image_counts: (K,) training images that hold each class. A class without any is never drawn.
        num_sampled: size of S together with background; larger only if the batch alone has more
            classes.
        frequency_power: exponent of the image counts.
        prior_probability: probability of every class at the start of training; the default is
            that of the released code.
        generator: source of the draws, on the logits' device; None for torch's default generator,
            which ``torch.manual_seed`` seeds.
    """

    draw_weights: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        image_counts: Sequence[float] | None = None,
        num_sampled: int = 50,
        frequency_power: float = 0.5,
        prior_probability: float = 0.01,
        generator: torch.Generator | None = None,
    ):
        super().__init__(num_classes, prior_probability)
        if num_sampled < 1:
            raise ValueError(f"num_sampled must be at least 1, got {num_sampled}")
        if frequency_power < 0:
            raise ValueError(f"frequency_power must not be negative, got {frequency_power}")
        counts = class_vector(image_counts, num_classes, "image_counts")
        self.num_sampled = num_sampled
        self.frequency_power = frequency_power
        self.generator = generator
        # Not in checkpoints: they follow from the training set and the settings of this run.
        self.register_buffer(
            "draw_weights", (counts > 0) * counts**frequency_power, persistent=False
        )

    def sample_losses(
        self, logits: Tensor, gt_classes: Tensor, annotated_classes: Tensor | None
    ) -> Tensor:
        sampled = self.sample_classes(gt_classes)
        return weighted_sigmoid(logits, gt_classes, lambda rows: sampled)

    def sample_classes(self, gt_classes: Tensor) -> Tensor:
        """
        Args:
            gt_classes: (R,) int64 in [0, K].

        Returns:
            bool (K,), the classes in S.
        """
        # The largest weight_j / e_j with e_j from the exponential distribution are a draw without
        # replacement; the classes of the batch, and background, come first.
        keys = F.pad(self.draw_weights, (0, 1))
        keys /= torch.empty_like(keys).exponential_(generator=self.generator)
        keys[gt_classes] = torch.inf
        smallest = keys.topk(min(self.num_sampled, len(keys))).values[-1]
        return ((keys >= smallest) & (keys > 0))[:-1]

    def extra_repr(self) -> str:
        return (
            f"num_classes={self.num_classes}, num_sampled={self.num_sampled}, "
            f"frequency_power={self.frequency_power}"
        )
