"""Softmax cross entropy with pairwise class balance (PCB)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import float32_or_better
from .confusion import confusion_statistics
from .softmax import SoftmaxLoss


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
        labels = gt_classes[:, None]
        has_started = self.steps >= self.start_step
        alpha = self.alpha * (has_started & (labels < self.num_classes)).to(logits.dtype)
        # As many columns as logits: background is no soft label.
        q = self.confusion[:, gt_classes.clamp(max=self.num_classes - 1)].T.to(logits.dtype)
        q = F.pad(F.normalize(q, p=1), (0, self.num_columns - self.num_classes))
        targets = (alpha * q).scatter_add(1, labels, 1 - alpha)
        return F.cross_entropy(logits, targets, reduction="none")

    def logit_statistics(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        return confusion_statistics(logits, gt_classes, self.num_classes)

    def update_statistics(self, sums: dict[str, Tensor]) -> None:
        samples = sums["samples"][:, None]
        # The first mean of a class is its row.
        kept = self.momentum * (self.samples[:, None] > 0).double()
        means = sums["probability_sums"] / samples.clamp(min=1)
        mixed = kept * self.confusion + (1 - kept) * means
        self.confusion = torch.where(samples > 0, mixed, self.confusion)
        self.samples = self.samples + sums["samples"]
        self.steps = self.steps + samples.any()

    def sample_counts(self) -> Tensor | None:
        return self.samples

    def extra_repr(self) -> str:
        return (
            f"num_classes={self.num_classes}, alpha={self.alpha}, momentum={self.momentum}, "
            f"start_step={self.start_step:g}, objectness={self.objectness}"
        )
