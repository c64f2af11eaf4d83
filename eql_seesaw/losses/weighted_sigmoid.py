"""Sigmoid cross entropy whose terms are weighted, the core of the losses with sigmoids."""

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .row_blocks import row_blocks


def weighted_sigmoid_loss(
    logits: torch.Tensor,
    gt_classes: torch.Tensor,
    ignored: torch.Tensor | None = None,
    ignoring_rows: torch.Tensor | None = None,
    kept: torch.Tensor | None = None,
    positive_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""
    Sigmoid cross entropy of each sample, summed over classes, as in E eq. 6 and 7
    (https://arxiv.org/abs/2003.05176) with an additional weight of the positive term:

    .. math::
        L_r = -\sum_j w_{rj} \log \hat p_{rj}, \qquad
        w_{rj} = 1 - E_r \, T_j \text{ where } y_{rj} = 0, \quad u_j \text{ where } y_{rj} = 1

    Only the logits themselves are kept for the backward pass; everything else lives in one block of
    rows at a time.

    Args:
        logits: (R, K), any floating dtype; computed in float32 or better.
        gt_classes: (R,) int64 in [0, K]; K is background, a row whose labels y are all 0.
        ignored: (K,) in [0, 1], T_j: how far class j ignores samples of other classes; None for 0.
        ignoring_rows: bool (R,), E_r: the samples that are ignored; None for all.
        kept: bool (R, K) or None; True keeps w_rj of a negative term at 1.
        positive_weights: (K,), u_j, or None for 1.

    Returns:
        (R,), float32 or better.
    """
    if ignored is None:
        ignored = logits.new_zeros(logits.shape[1], dtype=torch.float32)
    if ignoring_rows is None:
        ignoring_rows = torch.ones_like(gt_classes, dtype=torch.bool)
    return _WeightedSigmoidLoss.apply(
        logits, gt_classes, ignored, ignoring_rows, kept, positive_weights
    )


class _WeightedSigmoidLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, gt_classes, ignored, ignoring_rows, kept, positive_weights):
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        row_losses = torch.empty(len(logits), dtype=dtype, device=logits.device)
        for rows in row_blocks(logits):
            block = logits[rows].to(dtype)
            weights = _weights_of_negatives(rows, ignored.to(dtype), ignoring_rows, kept)
            # -log(1 - p) = softplus(z), and -log p = softplus(z) - z.
            losses = _softplus(block)
            own, foreground = _own_class(gt_classes[rows], block)
            own_weights = 1 if positive_weights is None else positive_weights.to(dtype)[own]
            positive = losses.gather(1, own) * (own_weights - weights.gather(1, own))
            positive -= block.gather(1, own) * own_weights
            row_losses[rows] = losses.mul_(weights).sum(dim=1)
            row_losses[rows] += torch.where(foreground, positive, 0).squeeze(1)
        ctx.save_for_backward(logits, gt_classes, ignored, ignoring_rows, kept, positive_weights)
        return row_losses

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        logits, gt_classes, ignored, ignoring_rows, kept, positive_weights = ctx.saved_tensors
        dtype = grad_output.dtype
        grad_logits = torch.empty_like(logits)
        for rows in row_blocks(logits):
            block = logits[rows].to(dtype)
            weights = _weights_of_negatives(rows, ignored.to(dtype), ignoring_rows, kept)
            probabilities = block.sigmoid()
            own, foreground = _own_class(gt_classes[rows], block)
            positive = probabilities.gather(1, own) - 1
            if positive_weights is not None:
                positive *= positive_weights.to(dtype)[own]
            grad = probabilities.mul_(weights)
            grad.scatter_(1, own, torch.where(foreground, positive, grad.gather(1, own)))
            torch.mul(grad, grad_output[rows, None], out=grad_logits[rows])
        return grad_logits, None, None, None, None, None


def _weights_of_negatives(rows, ignored, ignoring_rows, kept):
    """w_rj for j other than the row's own class, (r, K)."""
    weights = (ignoring_rows[rows, None].to(ignored.dtype) * ignored).neg_().add_(1)
    return weights if kept is None else weights.masked_fill_(kept[rows], 1)


def _own_class(gt_classes, block):
    """(r, 1) column of the row's own class, any one for background; (r, 1) whether foreground."""
    num_classes = block.shape[1]
    own = gt_classes[:, None]
    return own.clamp(max=num_classes - 1), own < num_classes


def _softplus(x):
    """log(1 + exp(x)), elementwise."""
    if x.device.type != "cpu":
        return F.softplus(x, threshold=40)
    # On CPU log1p is not vectorised and costs eight times log. With u = exp(-|x|) and v = 1 + u in
    # floating point, log1p(u) = log(v) + (u - (v - 1)) / v up to rounding.
    exponential = x.abs().neg_().exp_()
    rounded = exponential + 1
    exponential.sub_(rounded - 1).div_(rounded)
    return rounded.log_().add_(exponential).add_(x.clamp(min=0))
