"""Sigmoid focal loss."""

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .base import SigmoidLoss
from .row_blocks import row_blocks
from .weighted_sigmoid import own_classes


class FocalLoss(SigmoidLoss):
    r"""
    Focal loss of https://arxiv.org/abs/1708.02002, eq. 5, over K independent sigmoids:

    .. math::
        L = -\frac{1}{R} \sum_r \sum_j \alpha_{rj} (1 - \hat p_{rj})^\gamma \log \hat p_{rj}

    with :math:`\hat p = p` and :math:`\alpha_{rj} = \alpha` for the sample's own class,
    :math:`\hat p = 1 - p` and :math:`\alpha_{rj} = 1 - \alpha` for the others.

    The sum is divided by all R samples, as the sigmoid cross entropy that the EQL paper compares it
    with (table 5). The focal loss paper, whose detector has no proposals, divides by the number of
    foreground samples.

    Args:
        num_classes: K. Takes K logits; a background sample is a negative of every class.
        alpha: weight of the positive terms; 1 - alpha is that of the negative ones.
        gamma: exponent of the modulating factor; 0 switches it off.
        prior_probability: probability of every class at the start of training.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        alpha: float = 0.25,
        gamma: float = 2.0,
        prior_probability: float = 0.001,
    ):
        super().__init__(num_classes, prior_probability)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        if gamma < 0:
            raise ValueError(f"gamma must not be negative, got {gamma}")
        self.alpha = alpha
        self.gamma = gamma

    def losses(
        self,
        logits: torch.Tensor,
        gt_classes: torch.Tensor,
        annotated_classes: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        loss = _FocalLoss.apply(logits, gt_classes, self.alpha, self.gamma)
        return {"loss_cls": loss / max(len(logits), 1)}

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, alpha={self.alpha}, gamma={self.gamma}"


class _FocalLoss(torch.autograd.Function):
    """The sum over samples. The gradient is computed with it, block of rows by block of rows."""

    @staticmethod
    def forward(ctx, logits, gt_classes, alpha, gamma):
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        own, foreground = own_classes(gt_classes, logits.shape[1])
        # bfloat16 has the range of float32, float16 has not.
        kept_dtype = logits.dtype if logits.dtype == torch.bfloat16 else dtype
        gradient = torch.empty_like(logits, dtype=kept_dtype)
        sums = torch.empty(len(logits), 1, dtype=dtype, device=logits.device)
        for rows in row_blocks(logits):
            losses, gradients = _terms_of_negatives(logits[rows].to(dtype), gamma)
            as_negatives = losses.gather(1, own[rows]).masked_fill_(foreground[rows], 0)
            losses.scatter_(1, own[rows], as_negatives)
            torch.sum(losses, dim=1, keepdim=True, out=sums[rows])
            torch.mul(gradients, 1 - alpha, out=gradient[rows])
        # The positive term is that of a negative class with the opposite logit.
        own_logits = logits.gather(1, own).to(dtype)
        losses, gradients = _terms_of_negatives(-own_logits, gamma)
        positive = torch.where(foreground, losses, 0).sum()
        own_gradient = torch.where(
            foreground, (-alpha * gradients).to(kept_dtype), gradient.gather(1, own)
        )
        gradient[torch.arange(len(own), device=own.device), own[:, 0]] = own_gradient[:, 0]
        ctx.save_for_backward(gradient)
        ctx.logits_dtype = logits.dtype
        return alpha * positive + (1 - alpha) * sums.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_output).to(ctx.logits_dtype), None, None, None


def _terms_of_negatives(logits, gamma):
    """p^gamma * -log(1 - p), and its derivative by the logit."""
    losses = F.softplus(logits, threshold=40)
    probabilities = logits.sigmoid()
    modulation = probabilities.pow(gamma)
    gradients = (1 - probabilities).mul_(losses)
    gradients = torch.add(probabilities, gradients, alpha=gamma, out=gradients).mul_(modulation)
    return losses.mul_(modulation), gradients
