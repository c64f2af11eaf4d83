"""Softmax equalization loss (SEQL)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import class_vector
from .rarity import rarity_threshold, tail_ratio
from .softmax import SoftmaxLoss, offset_softmax


class SoftmaxEqualizationLoss(SoftmaxLoss):
    r"""
    Softmax equalization loss of https://arxiv.org/abs/2003.05176 ("E"), eq. 9 to 11:

    .. math::
        L = -\frac{1}{R} \sum_r \log \frac{e^{z_{r y_r}}}{\sum_k \tilde w_{rk} e^{z_{rk}}}, \qquad
        \tilde w_{rk} = 1 - \beta_{rk} \, T_\lambda(f_k) \, (1 - y_{rk})

    With probability :math:`\gamma` (:math:`\beta = 1`, drawn anew for each sample and class) a rare
    class is left out of a sample's softmax. Background is never left out; there is no E(r).

    Args:
        num_classes: K.
        image_counts, num_images, max_image_count, lambda_: the protected classes, as for
            :func:`~.rarity.rarity_threshold`.
        gamma: probability that beta is 1.
        objectness, background: as for :class:`~.softmax.SoftmaxLoss`.
        generator: source of beta, on the logits' device; None for torch's default generator,
            which ``torch.manual_seed`` seeds.
    """

    protected_classes: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        image_counts: Sequence[float] | None = None,
        num_images: int | None = None,
        max_image_count: int = 100,
        lambda_: float | None = None,
        gamma: float = 0.95,
        objectness: bool = False,
        background: bool = True,
        generator: torch.Generator | None = None,
    ):
        super().__init__(num_classes, objectness, background)
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must be in [0, 1], got {gamma}")
        counts = class_vector(image_counts, num_classes, "image_counts")
        rarity = rarity_threshold(counts, num_classes, max_image_count, lambda_, num_images)
        self.gamma = gamma
        self.generator = generator
        self.tail_ratio = tail_ratio(rarity, counts)
        self.protected_classes = rarity.bool()

    def sample_losses(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        protected = F.pad(self.protected_classes, (0, self.num_columns - self.num_classes))

        def log_weights(z: Tensor, rows: slice) -> Tensor:
            beta = torch.rand(z.shape, device=z.device, generator=self.generator) < self.gamma
            left_out = (beta & protected).scatter_(1, gt_classes[rows, None], False)
            return torch.zeros_like(z).masked_fill_(left_out, -torch.inf)

        return offset_softmax(logits, gt_classes, log_weights)

    def extra_repr(self) -> str:
        return (
            f"protected={int(self.protected_classes.sum())} of {self.num_classes} classes, "
            f"tail_ratio={100 * self.tail_ratio:.2f}%, gamma={self.gamma}, "
            f"objectness={self.objectness}"
        )
