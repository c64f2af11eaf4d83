"""Equalization loss (EQL) for detection."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import class_vector, computation_dtype
from .rarity import image_frequencies, rarity_threshold, tail_ratio
from .sigmoid import SigmoidLoss, weighted_sigmoid

THRESHOLD_FUNCTIONS = ("threshold", "exponential", "gompertz")


class EqualizationLoss(SigmoidLoss):
    r"""
    Equalization loss of https://arxiv.org/abs/2003.05176 ("E"), eq. 6 and 7:

    .. math::
        L = -\frac{1}{R} \sum_r \sum_j w_{rj} \log \hat p_{rj}, \qquad
        w_{rj} = 1 - E(r) \, T_\lambda(f_j) \, (1 - y_{rj})

    A rare class j (:math:`T_\lambda(f_j) = 1`) ignores the foreground proposals of other classes;
    background proposals (:math:`E(r) = 0`) still push it down. The sum is divided by all R sampled
    proposals, as in the released code.

    Args:
        num_classes: K. Takes K logits.
        image_counts, num_images, max_image_count, lambda_: the protected classes, as for
            :func:`~.rarity.rarity_threshold`; exponential and gompertz need ``num_images`` too.
        excluding_function: E(r). If False, background proposals are ignored too (E table 4).
        threshold_function: the form of T (E table 3). "threshold"; "exponential",
            :math:`T = 1 - (a f)^n`; or "gompertz", :math:`T = 1 - a e^{-b e^{-c f}}`;
            both cut to [0, 1].
        exponential: (a, n).
        gompertz: (a, b, c).
        keep_annotated: w = 1 for classes in the positive or negative set of the proposal's image
            (E section 4.2; the released code leaves this rule out).
        prior_probability, link: as for :class:`~.sigmoid.SigmoidLoss`.
    """

    rarity: Tensor
    protected_classes: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        image_counts: Sequence[float] | None = None,
        num_images: int | None = None,
        max_image_count: int = 100,
        lambda_: float | None = None,
        excluding_function: bool = True,
        threshold_function: str = "threshold",
        exponential: tuple[float, float] = (400.0, 2.0),
        gompertz: tuple[float, float, float] = (1.0, 80.0, 3000.0),
        keep_annotated: bool = False,
        prior_probability: float | None = None,
        link: str = "sigmoid",
    ):
        super().__init__(num_classes, prior_probability, link=link)
        counts = class_vector(image_counts, num_classes, "image_counts")
        if threshold_function == "threshold":
            rarity = rarity_threshold(counts, num_classes, max_image_count, lambda_, num_images)
        elif threshold_function == "exponential":
            a, n = exponential
            rarity = 1 - (a * image_frequencies(counts, num_images)) ** n
        elif threshold_function == "gompertz":
            a, b, c = gompertz
            frequencies = image_frequencies(counts, num_images)
            rarity = 1 - a * torch.exp(-b * torch.exp(-c * frequencies))
        else:
            raise ValueError(
                f"threshold_function must be one of {THRESHOLD_FUNCTIONS}, "
                f"got {threshold_function!r}"
            )
        rarity = rarity.clamp(0, 1).float()
        self.excluding_function = excluding_function
        self.keep_annotated = keep_annotated
        self.tail_ratio = tail_ratio(rarity, counts)
        # Not in checkpoints: they follow from the training set and the settings of this run.
        self.register_buffer("rarity", rarity, persistent=False)
        self.protected_classes = rarity >= 0.5

    def sample_losses(
        self, logits: Tensor, gt_classes: Tensor, annotated_classes: Tensor | None
    ) -> Tensor:
        foreground = gt_classes[:, None] < self.num_classes
        rarity = self.rarity.to(computation_dtype(logits))

        def weights(rows: slice) -> Tensor:
            w = 1 - rarity
            if self.excluding_function:  # E(r) = 0 for background
                w = torch.where(foreground[rows], w, 1.0)
            if self.keep_annotated and annotated_classes is not None:
                w = torch.where(annotated_classes[rows], 1.0, w)
            return w

        return weighted_sigmoid(logits, gt_classes, weights, link=self.link_function)

    def extra_repr(self) -> str:
        own = (
            f"protected={int(self.protected_classes.sum())} of {self.num_classes} classes, "
            f"tail_ratio={100 * self.tail_ratio:.2f}%, excluding_function={self.excluding_function}"
        )
        return ", ".join(filter(None, (own, super().extra_repr())))
