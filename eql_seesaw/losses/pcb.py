"""Softmax cross entropy with pairwise class balance (PCB)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import float32_or_better
from .confusion import confusion_statistics
from .softmax import SoftmaxLoss

# A class that nothing is taken for has no shares to divide.
FLOOR = 1e-12


class PairwiseClassBalanceLoss(SoftmaxLoss):
    r"""
    Softmax cross entropy with the regulariser of pairwise class balance, PCB,
    https://arxiv.org/abs/2201.02784, as in its released code, for a sample of class y:

    .. math::
        L = -(1 - \alpha) \log p_y - \alpha \sum_k q_{yk} \log p_k, \qquad
        q_{yk} = \frac{M_{ky}}{\sum_{k'} M_{k'y}}

    :math:`M_{ky}` is the mean softmax probability, among the classes, of class y for the samples of
    class k, a moving average over the steps that have some: :math:`M_k \leftarrow \mu M_k + (1 -
    \mu) \bar p_k`. So :math:`q_{yk}` is the share of class k in what is taken for y; a class that
    others are mistaken for gives of its labels to them. Background samples have :math:`\alpha = 0`,
    and all have until a share of training is over.

    The released code waits for samples of every class, which may never come. Here a class without
    samples so far is taken for itself alone; and the scores of a step count from the next one on.
    The paper's box head, which refines its features three times, is left out; alpha is that of its
    last round.

    Args:
        num_classes: K.
        alpha: strength.
        momentum: mu.
        start: share of the training after which the regulariser starts. The released code's is the
            17th of 24 epochs.
        num_steps: steps of the training, forward passes with accumulated gradients.
        objectness, background: as for :class:`~.softmax.SoftmaxLoss`.

    Attributes:
        confusion (Tensor): float64 (K, K), M, of the samples of all ranks; in checkpoints, where
            1,203 classes take 12 MB.
        samples (Tensor): int64 (K,), of each class, cumulative, summed over ranks; in checkpoints.
        steps (Tensor): int64 (), with foreground samples so far; in checkpoints.
    """

    confusion: Tensor
    samples: Tensor
    steps: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        alpha: float = 0.4,
        momentum: float = 0.99,
        start: float = 2 / 3,
        num_steps: int | None = None,
        objectness: bool = False,
        background: bool = True,
    ):
        super().__init__(num_classes, objectness, background)
        for name, share in (("alpha", alpha), ("momentum", momentum), ("start", start)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {share}")
        if num_steps is None:
            raise ValueError("this loss needs num_steps, the number of training steps")
        self.alpha = alpha
        self.momentum = momentum
        self.start_step = start * num_steps
        confusion = torch.eye(num_classes, dtype=torch.float64, device="cpu")
        self.register_buffer("confusion", confusion)
        samples = torch.zeros(num_classes, dtype=torch.int64, device="cpu")
        self.register_buffer("samples", samples)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device="cpu"))

    def sample_losses(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        logits = float32_or_better(logits)
        # Classes may be masked with -inf; 0 of their labels is 0.
        logits = logits.clamp(min=torch.finfo(logits.dtype).min)
        labels = self.labels(logits.dtype)[gt_classes]
        return F.cross_entropy(logits, labels, reduction="none")

    def labels(self, dtype: torch.dtype) -> Tensor:
        """(C, C), those of a class's samples in a row: alpha q, and the rest for itself."""
        alpha = self.alpha * (self.steps >= self.start_step).to(dtype)
        q = (self.confusion / self.confusion.sum(dim=0).clamp(min=FLOOR)).T.to(dtype)
        num_others = self.num_columns - self.num_classes
        labels = F.pad(alpha * q, (0, num_others, 0, num_others))
        labels.diagonal().add_(1 - labels.sum(dim=1))
        return labels

    def logit_statistics(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        return confusion_statistics(logits, gt_classes, self.num_classes)

    def update_statistics(self, sums: dict[str, Tensor]) -> None:
        samples = sums["samples"]
        # The first mean of a class is its row, later ones change it.
        weights = (1 - self.momentum * (self.samples > 0).double()) * (samples > 0)
        means = sums["probability_sums"] / samples.clamp(min=1)[:, None]
        self.confusion = self.confusion.lerp(means, weights[:, None])
        self.samples = self.samples + samples
        self.steps = self.steps + samples.any()

    def sample_counts(self) -> Tensor | None:
        return self.samples

    def extra_repr(self) -> str:
        return (
            f"num_classes={self.num_classes}, alpha={self.alpha}, momentum={self.momentum}, "
            f"start_step={self.start_step:g}, objectness={self.objectness}"
        )
