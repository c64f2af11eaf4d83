"""Sigmoid cross entropy whose negative terms are weighted, the core of sigmoid CE and EQL."""

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .row_blocks import row_blocks


def weighted_sigmoid_loss(
    logits: torch.Tensor,
    gt_classes: torch.Tensor,
    ignored: torch.Tensor,
    ignoring_rows: torch.Tensor,
    kept: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""
    Sigmoid cross entropy, summed over classes and samples, as in E eq. 6 and 7
    (https://arxiv.org/abs/2003.05176):

    .. math::
        L = -\sum_r \sum_j w_{rj} \log \hat p_{rj}, \qquad
        w_{rj} = 1 - E_r \, T_j \, (1 - y_{rj})

    Only the logits themselves are kept for the backward pass; everything else lives in one block of
    rows at a time.

    Args:
        logits: (R, K), any floating dtype; computed in float32 or better.
        gt_classes: (R,) int64 in [0, K]; K is background, a row whose labels y are all 0.
        ignored: (K,) in [0, 1], T_j: how far class j ignores samples of other classes.
        ignoring_rows: bool (R,), E_r: the samples that are ignored.
        kept: bool (R, K) or None; True keeps w_rj at 1.

    Returns:
        Scalar, float32 or better.
    """
    return _WeightedSigmoidLoss.apply(logits, gt_classes, ignored, ignoring_rows, kept)


class _WeightedSigmoidLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, gt_classes, ignored, ignoring_rows, kept):
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        row_losses = torch.empty(len(logits), dtype=dtype, device=logits.device)
        for rows in row_blocks(logits):
            block = logits[rows].to(dtype)
            weights = _weights_of_negatives(rows, ignored.to(dtype), ignoring_rows, kept)
            # -log(1 - p) = softplus(z), and -log p = softplus(z) - z.
            losses = _softplus(block)
            own, foreground = _own_class(gt_classes[rows], block)
            positive = losses.gather(1, own) * (1 - weights.gather(1, own)) - block.gather(1, own)
            row_losses[rows] = losses.mul_(weights).sum(dim=1)
            row_losses[rows] += torch.where(foreground, positive, 0).squeeze(1)
        ctx.save_for_backward(logits, gt_classes, ignored, ignoring_rows, kept)
        return row_losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        logits, gt_classes, ignored, ignoring_rows, kept = ctx.saved_tensors
        dtype = grad_output.dtype
        grad_logits = torch.empty_like(logits)
        for rows in row_blocks(logits):
            block = logits[rows].to(dtype)
            weights = _weights_of_negatives(rows, ignored.to(dtype), ignoring_rows, kept)
            probabilities = block.sigmoid()
            own, foreground = _own_class(gt_classes[rows], block)
            positive = probabilities.gather(1, own) - 1
            grad = probabilities.mul_(weights)
            grad.scatter_(1, own, torch.where(foreground, positive, grad.gather(1, own)))
            torch.mul(grad, grad_output, out=grad_logits[rows])
        return grad_logits, None, None, None, None


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
