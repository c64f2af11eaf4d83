"""DropLoss."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .rarity import rarity_threshold
from .sigmoid import SigmoidLoss, weighted_sigmoid


class DropLoss(SigmoidLoss):
    r"""
    DropLoss of https://arxiv.org/abs/2104.06402, eq. 5 to 7. As in EQL, a rare class
    (:math:`T_\lambda(f_j) = 1`) ignores the foreground samples of other classes; it also ignores
    background samples at random:

    .. math::
        L = -\frac{1}{R} \sum_r \sum_j w_{rj} \log \hat p_{rj}, \qquad
        w_{rj} = \begin{cases}
            1 & y_{rj} = 1 \\
            1 - T_\lambda(f_j) & r \text{ of another class} \\
            1 - T_\lambda(f_j) \, (1 - \beta_{rj}) & r \text{ background}
        \end{cases}

    with :math:`\beta_{rj} = 1` with the probability that a foreground sample of the step is of a
    rare class, drawn anew for each sample and class. In a step without foreground nothing is
    ignored, as in the released code.

    Args:
        num_classes: K. Takes K logits.
        image_counts, num_images, max_image_count, lambda_: the rare classes, as for
            :func:`~.rarity.rarity_threshold`. The released code has lambda = 0.00177, which in LVIS
            v0.5 is 100 images too, and takes more of v1.
        prior_probability, link: as for :class:`~.sigmoid.SigmoidLoss`.
        generator: source of the draws, on the logits' device; None for torch's default generator,
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
        prior_probability: float | None = None,
        link: str = "sigmoid",
        generator: torch.Generator | None = None,
    ):
        super().__init__(num_classes, prior_probability, link=link)
        rarity = rarity_threshold(image_counts, num_classes, max_image_count, lambda_, num_images)
        self.generator = generator
        self.protected_classes = rarity.bool()

    def sample_losses(
        self, logits: Tensor, gt_classes: Tensor, annotated_classes: Tensor | None
    ) -> Tensor:
        background = gt_classes[:, None] == self.num_classes
        kept = self.draw_kept(logits, self.rare_share(gt_classes)) & background

        def weights(rows: slice) -> Tensor:
            return ~self.protected_classes | kept[rows]

        return weighted_sigmoid(logits, gt_classes, weights, link=self.link_function)

    def rare_share(self, gt_classes: Tensor) -> Tensor:
        """
        Args:
            gt_classes: (R,) int64 in [0, K].

        Returns:
            Share of rare classes among foreground samples, a float32 scalar; 1 if there are none.
        """
        foreground = gt_classes < self.num_classes
        is_rare = foreground & self.protected_classes[gt_classes.clamp(max=self.num_classes - 1)]
        num_foreground = foreground.sum()
        return torch.where(num_foreground > 0, is_rare.sum() / num_foreground.clamp(min=1), 1.0)

    def draw_kept(self, logits: Tensor, probability: Tensor) -> Tensor:
        """Draws of :math:`\\beta`, bool of the logits' shape."""
        kept = torch.empty_like(logits, dtype=torch.bool)
        return kept.bernoulli_(probability.expand(logits.shape), generator=self.generator)

    def extra_repr(self) -> str:
        protected = f"protected={int(self.protected_classes.sum())} of {self.num_classes} classes"
        return ", ".join(filter(None, (protected, super().extra_repr())))
