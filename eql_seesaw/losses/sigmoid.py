"""Sigmoid cross entropy with weights, and what the losses with sigmoids have in common."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import ClassificationLoss, computation_dtype, float32_or_better
from .links import LINKS, SigmoidLink
from .row_blocks import row_blocks

# (logits, their classes) -> terms or derivatives, see SigmoidLink.
Term = Callable[[Tensor, Tensor | slice], Tensor]
ALL = slice(None)


def weighted_sigmoid(
    logits: Tensor,
    gt_classes: Tensor,
    weights: Callable[[slice], Tensor | float] | None = None,
    own_weights: Tensor | None = None,
    link: SigmoidLink = LINKS["sigmoid"],
    offsets: Callable[[slice], Tensor] | None = None,
) -> Tensor:
    r"""
    Sigmoid cross entropy with weights, summed over classes, as in E eq. 6
    (https://arxiv.org/abs/2003.05176):

    .. math:: L_r = -\sum_j w_{rj} \log \hat p_{rj}, \qquad
        \hat p_{rj} = p_{rj} \text{ where } y_{rj} = 1, \text{ else } 1 - p_{rj}

    Args:
        logits: (R, K), any floating dtype; computed in float32 or better.
        gt_classes: (R,) int64 in [0, K]; K is background, a row whose labels y are all 0.
        weights: of a block of rows to w_rj where y_rj = 0, broadcast to (r, K); None for 1. The
            same for the same rows whenever they are asked for.
        own_weights: (K,), w_rj where y_rj = 1; None for 1.
        link: p of a logit, and the terms.
        offsets: of a block of rows to a_rj, which are added to the logits, broadcast to (r, K).

    Returns:
        (R,), float32 or better.
    """
    own = gt_classes[:, None].clamp(max=logits.shape[1] - 1)
    foreground = gt_classes[:, None] < logits.shape[1]

    def weighted(of_others: Term, of_own: Term, z: Tensor, rows: slice) -> Tensor:
        if offsets is not None:
            z = z + offsets(rows)
        negative, positive = of_others(z, ALL), of_own(z.gather(1, own[rows]), own[rows])
        if weights is not None:
            negative = negative * weights(rows)
        if own_weights is not None:
            positive = positive * own_weights[own[rows]].to(z.dtype)
        positive = torch.where(foreground[rows], positive, negative.gather(1, own[rows]))
        # Where a graph is built, autograd may still need the negative terms as they are.
        scatter = negative.scatter if torch.is_grad_enabled() else negative.scatter_
        return scatter(1, own[rows], positive)

    return _BlockwiseSum.apply(
        logits,
        functools.partial(weighted, link.negative, link.positive),
        functools.partial(weighted, link.negative_derivative, link.positive_derivative),
    )


def gradient_sums(
    logits: Tensor, gt_classes: Tensor, link: SigmoidLink = LINKS["sigmoid"]
) -> tuple[Tensor, Tensor]:
    """
    Sums over samples of the absolute derivatives of terms by their logits, without weights.

    Args:
        logits, gt_classes, link: as for :func:`weighted_sigmoid`.

    Returns:
        Of each class its positive and its negative terms', float64 (K,).
    """
    positive = torch.zeros(logits.shape[1], dtype=torch.float64, device=logits.device)
    negative = torch.zeros_like(positive)
    own = gt_classes[:, None].clamp(max=logits.shape[1] - 1)
    foreground = gt_classes[:, None] < logits.shape[1]
    for rows in row_blocks(logits):
        z = float32_or_better(logits[rows])
        of_own = link.positive_derivative(z.gather(1, own[rows]), own[rows]).abs()
        of_own = torch.where(foreground[rows], of_own, 0)
        positive.scatter_add_(0, own[rows, 0], of_own[:, 0].double())
        of_others = link.negative_derivative(z, ALL)
        kept = torch.where(foreground[rows], 0, of_others.gather(1, own[rows]))
        negative += of_others.scatter_(1, own[rows], kept).sum(dim=0, dtype=torch.float64)
    return positive, negative


class _BlockwiseSum(torch.autograd.Function):
    """
    Sum of terms over classes. Terms and their gradients: of a block of logits and its rows. The
    backward pass is of differentiable operations, for second derivatives.
    """

    @staticmethod
    def forward(ctx, logits, terms, gradients):
        dtype = computation_dtype(logits)
        losses = logits.new_empty(len(logits), dtype=dtype)
        for rows in row_blocks(logits):
            losses[rows] = terms(logits[rows].to(dtype), rows).sum(dim=1)
        ctx.save_for_backward(logits)
        ctx.gradients = gradients
        return losses

    @staticmethod
    def backward(ctx, grad_losses):
        (logits,) = ctx.saved_tensors
        scale = grad_losses[:, None]
        grad_logits = torch.empty_like(logits)
        for rows in row_blocks(logits):
            grad_logits[rows] = ctx.gradients(logits[rows].to(scale.dtype), rows).mul_(scale[rows])
        return grad_logits, None, None


class SigmoidLoss(ClassificationLoss):
    """
    Common part of the losses with one independent sigmoid per class and, but for those that say
    so, no background logit.

    The classifier's bias starts where every class has probability ``prior_probability``, as in
    the focal loss paper (https://arxiv.org/abs/1708.02002, section 4.1): with 1,203 classes and
    zero bias the loss would start at 1203 log 2 = 834.

    A subclass overrides :meth:`sample_losses`, which is sigmoid cross entropy.

    Args:
        num_classes: K.
        prior_probability: of every class at the start of training; None for that of the released
            code, 0.001, or 0.0006 with the Gumbel link, where the bias is -2.
        num_logits: L; None for K.
        link: p of a logit, a key of :data:`~.links.LINKS`: "sigmoid", or "gumbel" for
            :class:`~.links.GumbelLink`.
    """

    def __init__(
        self,
        num_classes: int,
        prior_probability: float | None = None,
        num_logits: int | None = None,
        link: str = "sigmoid",
    ):
        super().__init__(num_classes, num_logits or num_classes)
        if link not in LINKS:
            raise ValueError(f"link must be one of {', '.join(LINKS)}, got {link!r}")
        self.link_function = LINKS[link]
        if prior_probability is None:
            prior_probability = self.link_function.prior_probability
        if not 0 < prior_probability < 1:
            raise ValueError(f"prior_probability must be in (0, 1), got {prior_probability}")
        self.link = link if self.num_logits == num_classes else None
        self.prior_probability = prior_probability

    def sample_losses(
        self, logits: Tensor, gt_classes: Tensor, annotated_classes: Tensor | None
    ) -> Tensor:
        """Loss of each sample (R,), summed over classes; arguments as for :meth:`forward`."""
        return weighted_sigmoid(logits, gt_classes, link=self.link_function)

    def losses(
        self, logits: Tensor, gt_classes: Tensor, annotated_classes: Tensor | None
    ) -> dict[str, Tensor]:
        losses = self.sample_losses(logits, gt_classes, annotated_classes)
        return {"loss_cls": losses.sum() / max(len(logits), 1)}

    def probabilities(self, logits: Tensor) -> Tensor:
        """(R, K) logits to (R, K + 1); the background column is 0, as there is no such logit."""
        return F.pad(self.link_function.probabilities(float32_or_better(logits)), (0, 1))

    def predicted_classes(self, logits: Tensor) -> Tensor:
        """The class of the largest logit, or background where no probability reaches 1/2."""
        largest, classes = logits.max(dim=1)
        return torch.where(largest >= self.link_function.logit(0.5), classes, self.num_classes)

    def init_classifier(self, classifier: nn.Linear) -> None:
        super().init_classifier(classifier)
        nn.init.constant_(classifier.bias, self.link_function.logit(self.prior_probability))

    def extra_repr(self) -> str:
        """The link, where it is another than the sigmoid."""
        return "" if self.link in (None, "sigmoid") else f"link={self.link}"


class SigmoidLossWithBackground(SigmoidLoss):
    r"""
    Common part of the losses whose last logit is a sigmoid of background, which multiplies the
    others: the score of a class is :math:`\sigma(z_j) (1 - \sigma(z_{bg}))`.

    Args:
        num_classes: K. Takes K + 1 logits.
        prior_probability: of every class, and of background, at the start of training.
    """

    def __init__(self, num_classes: int, prior_probability: float = 0.001):
        super().__init__(num_classes, prior_probability, num_logits=num_classes + 1)

    def probabilities(self, logits: Tensor) -> Tensor:
        scores = float32_or_better(logits).sigmoid()
        classes, background = scores[:, :-1], scores[:, -1:]
        return torch.cat([classes * (1 - background), background], dim=1)

    def predicted_classes(self, logits: Tensor) -> Tensor:
        """The class of the largest logit, or background where its probability is above 1/2."""
        classes = logits[:, : self.num_classes].argmax(dim=1)
        return torch.where(logits[:, -1] > 0, self.num_classes, classes)
