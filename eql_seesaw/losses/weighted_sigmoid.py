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
    return _WeightedSigmoidLoss.apply(
        logits, gt_classes, ignored, ignoring_rows, kept, positive_weights
    )


class _WeightedSigmoidLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, gt_classes, ignored, ignoring_rows, kept, positive_weights):
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        own, foreground = own_classes(gt_classes, logits.shape[1])
        # w_rj is the larger one of 1 - T_j and 1 - E_r.
        column_weights = None if ignored is None else 1 - ignored.to(dtype)
        row_weights = None if ignoring_rows is None else 1 - ignoring_rows[:, None].to(dtype)
        own_weights = 1 if positive_weights is None else positive_weights.to(dtype)[own]
        sums = torch.empty(len(logits), 1, dtype=dtype, device=logits.device)
        own_losses, weights_at_own = torch.empty_like(sums), torch.ones_like(sums)
        for rows in row_blocks(logits):
            # -log(1 - p) = softplus(z), and -log p = softplus(z) - z.
            losses = F.softplus(logits[rows].to(dtype), threshold=40)
            torch.gather(losses, 1, own[rows], out=own_losses[rows])
            if column_weights is not None:
                weights = _weights_of_negatives(rows, column_weights, row_weights, kept)
                torch.gather(weights.expand_as(losses), 1, own[rows], out=weights_at_own[rows])
                losses.mul_(weights)
            torch.sum(losses, dim=1, keepdim=True, out=sums[rows])
        positive = own_losses * (own_weights - weights_at_own)
        positive -= logits.gather(1, own).to(dtype) * own_weights
        ctx.save_for_backward(
            logits, own, foreground, column_weights, row_weights, kept, positive_weights
        )
        return (sums + positive.masked_fill_(~foreground, 0)).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        logits, own, foreground, column_weights, row_weights, kept, positive_weights = (
            ctx.saved_tensors
        )
        dtype, grad_output = grad_output.dtype, grad_output[:, None]
        own_grad = logits.gather(1, own).to(dtype).sigmoid() - 1
        if positive_weights is not None:
            own_grad *= positive_weights.to(dtype)[own]
        own_grad *= grad_output
        grad_logits = torch.empty_like(logits)
        for rows in row_blocks(logits):
            is_exact = logits.dtype == dtype
            grad = grad_logits[rows] if is_exact else logits[rows].to(dtype)
            torch.sigmoid(logits[rows] if is_exact else grad, out=grad)
            if column_weights is not None:
                grad.mul_(_weights_of_negatives(rows, column_weights, row_weights, kept))
            grad.mul_(grad_output[rows])
            if not is_exact:
                grad_logits[rows] = grad
        own_grad = torch.where(foreground, own_grad.to(logits.dtype), grad_logits.gather(1, own))
        # Not by scatter_, which copies all of a bfloat16 matrix on CPU.
        grad_logits[torch.arange(len(own), device=own.device), own[:, 0]] = own_grad[:, 0]
        return grad_logits, None, None, None, None, None


def own_classes(gt_classes: torch.Tensor, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(R, 1) column of each row's own class, any one for background; bool (R, 1), foreground."""
    own = gt_classes[:, None]
    return own.clamp(max=num_classes - 1), own < num_classes


def _weights_of_negatives(rows, column_weights, row_weights, kept):
    """w_rj for j other than the row's own class, (r, K) or (K,)."""
    weights = column_weights
    if row_weights is not None:
        weights = torch.maximum(weights, row_weights[rows])
    return weights if kept is None else weights.masked_fill(kept[rows], 1)
