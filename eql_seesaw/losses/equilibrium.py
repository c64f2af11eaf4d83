"""Equilibrium loss (EBL) of LOCE."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .softmax import SoftmaxLoss, own_log_probabilities, shifted_softmax

# Mean score of every class at the start of training, and of background at all times.
INITIAL_SCORE = 0.01
# A mean score of 0 would have no logarithm.
FLOOR = 1e-6


class EquilibriumLoss(SoftmaxLoss):
    r"""
    Equilibrium loss of LOCE, https://arxiv.org/abs/2108.07507, for a sample of class y:

    .. math:: L = -\log \frac{m_y e^{z_y}}{\sum_j m_j e^{z_j}}

    :math:`m_j` is the mean score of class j, the softmax probability that its samples had of it, a
    moving average. Of a step with :math:`n_j` samples of class j and their mean :math:`\bar p_j`

    .. math:: m_j \leftarrow \mu^{n_j} m_j + (1 - \mu^{n_j}) \bar p_j

    A class that is underrated so far has a small m, and its samples need a larger logit. Background
    has a fixed m.

    The released code averages over the proposals of an object first, and :math:`n_j` are objects.
    Here they are samples, as a loss does not know objects; and the scores of a step count from the
    next one on. LOCE trains the classifier only, with features of rare classes from a memory, which
    is left out.

    Args:
        num_classes: K.
        momentum: mu. The released code's 0.9 is that of an object, from which the proposal sampler
            takes at most ten samples in LVIS: 512 / 4 of an image with 12.7 objects.
        objectness, background: as for :class:`~.softmax.SoftmaxLoss`.

    Attributes:
        mean_scores (Tensor): float64 (K,), m, of the samples of all ranks; in checkpoints.
    """

    mean_scores: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        momentum: float = 0.99,
        objectness: bool = False,
        background: bool = True,
    ):
        super().__init__(num_classes, objectness, background)
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be in [0, 1], got {momentum}")
        self.momentum = momentum
        scores = torch.full((num_classes,), INITIAL_SCORE, dtype=torch.float64, device="cpu")
        self.register_buffer("mean_scores", scores)

    def sample_losses(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        num_others = self.num_columns - self.num_classes
        m = F.pad(self.mean_scores.clamp(min=FLOOR), (0, num_others), value=INITIAL_SCORE)
        return shifted_softmax(logits, gt_classes, m.log())

    def logit_statistics(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        scores = own_log_probabilities(logits[:, : self.num_columns], gt_classes).exp()
        sums = scores.new_zeros(2, self.num_classes + 1)
        sums[0].scatter_add_(0, gt_classes, scores)
        sums[1].scatter_add_(0, gt_classes, torch.ones_like(scores))
        return {"scores_and_samples": sums[:, : self.num_classes]}

    def update_statistics(self, sums: dict[str, Tensor]) -> None:
        scores, samples = sums["scores_and_samples"]
        kept = self.momentum**samples
        self.mean_scores = kept * self.mean_scores + (1 - kept) * scores / samples.clamp(min=1)

    def extra_repr(self) -> str:
        return (
            f"num_classes={self.num_classes}, momentum={self.momentum}, "
            f"objectness={self.objectness}"
        )
