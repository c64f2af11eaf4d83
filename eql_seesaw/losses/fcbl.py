"""Foreground classification balance loss (FCBL)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import computation_dtype, float32_or_better
from .confusion import confusion_statistics
from .sigmoid import SigmoidLossWithBackground, weighted_sigmoid

# Lowest mean probability in the confusion matrix.
PROBABILITY_FLOOR = 1e-3


class ForegroundClassificationBalanceLoss(SigmoidLossWithBackground):
    r"""
    Foreground classification balance loss of BACL, https://arxiv.org/abs/2308.02213, as in its
    released code. Background is one more sigmoid, the last logit.

    .. math::
        L = -\frac{1}{R} \sum_r \sum_{j=1}^{K+1} w_{rj} \log \hat p_{rj}, \qquad
        p_{rj} = \mathrm{sigmoid}\left(z_{rj} + \alpha \log \frac{C_{y_r j}}{C_{j y_r}}\right)

    Margin and weight are those of foreground samples; for background samples, and for the logit of
    background, they are 0 and 1:

    * :math:`C_{ij}` is the mean softmax probability, among the classes, of class j for the samples
      of class i in training so far, before the current step, at least 0.001. A class that is
      mistaken for another more often than the other for it, is pushed apart from it by a margin;
    * :math:`w_{rj} = 1` for classes whose score :math:`s_{rj} = \sigma(z_{rj}) (1 - \sigma(z_{r,
      bg}))` is at least that of the sample's own class, or :math:`\xi`; else 0.

    The paper trains only the classifier, from a model trained with sigmoid cross entropy, with
    features made up for rare classes, which are left out.

    Args:
        num_classes: K. Takes K + 1 logits.
        alpha: strength of the margins.
        score_threshold: xi, in (0, 1].
        prior_probability: of every class, and of background, at the start of training.

    Attributes:
        probability_sums (Tensor): float64 (K, K), C times the samples of its row's class,
            cumulative, summed over ranks; in checkpoints, where 1,203 classes take 12 MB.
        samples (Tensor): int64 (K,), of each class, cumulative, summed over ranks; in checkpoints.
    """

    probability_sums: Tensor
    samples: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        alpha: float = 0.85,
        score_threshold: float = 0.7,
        prior_probability: float = 0.001,
    ):
        super().__init__(num_classes, prior_probability)
        if alpha < 0:
            raise ValueError(f"alpha must not be negative, got {alpha}")
        if not 0 < score_threshold <= 1:
            raise ValueError(f"score_threshold must be in (0, 1], got {score_threshold}")
        self.alpha = alpha
        self.score_threshold = score_threshold
        sums = torch.zeros(num_classes, num_classes, dtype=torch.float64, device="cpu")
        self.register_buffer("probability_sums", sums)
        samples = torch.zeros(num_classes, dtype=torch.int64, device="cpu")
        self.register_buffer("samples", samples)

    def sample_losses(
        self, logits: Tensor, gt_classes: Tensor, annotated_classes: Tensor | None
    ) -> Tensor:
        margins = self.margins(computation_dtype(logits))
        thresholds = self.logit_thresholds(logits.detach(), gt_classes)

        def weights(rows: slice) -> Tensor:
            counted = logits[rows].detach() >= thresholds[rows]
            counted[:, -1] = True
            return counted

        return weighted_sigmoid(
            logits, gt_classes, weights, offsets=lambda rows: margins[gt_classes[rows]]
        )

    def logit_thresholds(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        """(R, 1), the logits from which a class is suppressed: s_rj >= min(s_ry, xi)."""
        own = logits.gather(1, gt_classes[:, None])
        foreground_score = float32_or_better(-logits[:, -1:]).sigmoid()
        threshold = (self.score_threshold / foreground_score).clamp(max=1).logit()
        background = gt_classes[:, None] == self.num_classes
        return torch.minimum(own.to(threshold.dtype), threshold).masked_fill(background, -torch.inf)

    def margins(self, dtype: torch.dtype) -> Tensor:
        """(K + 1, K + 1), of a class's samples in a row; 0 for background."""
        confusion = self.probability_sums / self.samples.clamp(min=1)[:, None]
        log_confusion = confusion.to(dtype).clamp(min=PROBABILITY_FLOOR).log()
        return F.pad(self.alpha * (log_confusion - log_confusion.T), (0, 1, 0, 1))

    def logit_statistics(self, logits: Tensor, gt_classes: Tensor) -> dict[str, Tensor]:
        return confusion_statistics(logits, gt_classes, self.num_classes)

    def sample_counts(self) -> Tensor | None:
        return self.samples

    def extra_repr(self) -> str:
        return (
            f"num_classes={self.num_classes}, alpha={self.alpha}, "
            f"score_threshold={self.score_threshold}"
        )
