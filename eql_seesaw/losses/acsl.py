"""Adaptive class suppression loss (ACSL)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import class_vector, float32_or_better
from .sigmoid import SigmoidLoss, weighted_sigmoid


class AdaptiveClassSuppressionLoss(SigmoidLoss):
    r"""
    Adaptive class suppression loss of https://arxiv.org/abs/2104.00885, eq. 4 and 5. Background is
    one more sigmoid, the last logit:

    .. math::
        L = -\frac{1}{R} \sum_r \sum_{j=1}^{K+1} w_{rj} \log \hat p_{rj}, \qquad
        w_{rj} = \begin{cases}
            1 & y_{rj} = 1 \\
            [p_{rj} \ge \xi] & r \text{ foreground} \\
            \beta_{rj} & r \text{ background}
        \end{cases}

    A foreground sample suppresses only what it is mistaken for. Of background samples, all are
    negatives of frequent classes, a random tenth of common and a random hundredth of rare classes
    (:math:`\beta`, drawn anew in each step for the group as a whole), rounded down, as in the
    released code. Scores are :math:`p_j`. The paper trains only the classifier, from a model
    trained with softmax cross entropy.

    Args:
        num_classes: K. Takes K + 1 logits.
        image_counts: (K,) training images that hold each class.
        score_threshold: xi.
        group_bounds: most images of a rare and of a common class.
        background_shares: of background samples that count for rare and for common classes.
        prior_probability: of every class, and of background, at the start of training; the default
            is that of the released code.
        generator: source of the draws, on the logits' device; None for torch's default generator,
            which ``torch.manual_seed`` seeds.
    """

    groups: Tensor
    background_shares: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        image_counts: Sequence[float] | None = None,
        score_threshold: float = 0.7,
        group_bounds: Sequence[float] = (10, 100),
        background_shares: Sequence[float] = (0.01, 0.1),
        prior_probability: float = 0.01,
        generator: torch.Generator | None = None,
    ):
        super().__init__(num_classes, prior_probability, num_logits=num_classes + 1)
        if not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold must be in [0, 1], got {score_threshold}")
        if len(group_bounds) != 2 or not group_bounds[0] < group_bounds[1]:
            raise ValueError(f"group_bounds must be two that ascend, got {tuple(group_bounds)}")
        if len(background_shares) != 2 or not all(0 <= x <= 1 for x in background_shares):
            raise ValueError(
                f"background_shares must be two in [0, 1], got {tuple(background_shares)}"
            )
        self.score_threshold = score_threshold
        self.generator = generator
        counts = class_vector(image_counts, num_classes, "image_counts")
        bounds = torch.tensor([*group_bounds, torch.inf], dtype=torch.float64, device="cpu")
        # 0 for rare, 1 for common, 2 for frequent classes and background. Not in checkpoints: they
        # follow from the training set.
        groups = torch.bucketize(torch.cat([counts, counts.new_tensor([torch.inf])]), bounds)
        self.register_buffer("groups", groups, persistent=False)
        # float64, in which a tenth of 30 is not less than 3.
        shares = torch.tensor(background_shares, dtype=torch.float64, device="cpu")
        self.register_buffer("background_shares", shares, persistent=False)

    def sample_losses(
        self, logits: Tensor, gt_classes: Tensor, annotated_classes: Tensor | None
    ) -> Tensor:
        background = gt_classes == self.num_classes
        counted = self.draw_background(background)

        def weights(rows: slice) -> Tensor:
            p = float32_or_better(logits[rows].detach()).sigmoid()
            return torch.where(
                background[rows, None], counted[rows][:, self.groups], p >= self.score_threshold
            )

        return weighted_sigmoid(logits, gt_classes, weights)

    def draw_background(self, background: Tensor) -> Tensor:
        """
        Args:
            background: bool (R,).

        Returns:
            bool (R, 3), background samples that count for rare, common and frequent classes.
        """
        draws = torch.empty(len(background), 2, device=background.device)
        draws.uniform_(generator=self.generator)
        ranks = draws.masked_fill(~background[:, None], 2.0).argsort(dim=0).argsort(dim=0)
        counted = ranks < (self.background_shares * background.sum()).floor()
        return torch.cat([counted, background[:, None]], dim=1) & background[:, None]

    def probabilities(self, logits: Tensor) -> Tensor:
        return float32_or_better(logits).sigmoid()

    def predicted_classes(self, logits: Tensor) -> Tensor:
        """The class, or background, of the largest logit."""
        return logits.argmax(dim=1)

    def extra_repr(self) -> str:
        sizes = ", ".join(str(int((self.groups[:-1] == g).sum())) for g in range(3))
        return f"num_classes={self.num_classes} in groups of {sizes}, xi={self.score_threshold}"
