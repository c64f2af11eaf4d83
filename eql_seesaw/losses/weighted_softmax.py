"""Softmax cross entropy whose negative classes are weighted, the core of Seesaw and softmax EQL."""

from collections.abc import Callable

import torch
from torch.autograd.function import once_differentiable

from .row_blocks import row_blocks

# (rows, logits (r, C) of those rows in float32 or better, out (r, C)) -> (r, 1). Fills ``out`` with
# what is proportional, row by row, to w_rj exp(z_rj); returns the logarithm of its own-class entry.
WeightedExponentials = Callable[[slice, torch.Tensor, torch.Tensor], torch.Tensor]


def weighted_softmax_loss(
    logits: torch.Tensor,
    gt_classes: torch.Tensor,
    sample_weights: torch.Tensor,
    weighted_exponentials: WeightedExponentials,
    num_columns: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""
    Softmax cross entropy in which sample r sees class j with weight :math:`w_{rj}`:

    .. math:: L = \sum_r s_r \Bigl( \log \sum_j w_{rj} e^{z_{rj}} - z_{r y_r} \Bigr)

    Both S eq. 4 (Seesaw, https://arxiv.org/abs/2008.10032) and E eq. 10 (softmax EQL,
    https://arxiv.org/abs/2003.05176) have this form. No gradient flows through the weights. Rows
    are processed in blocks: beyond one (R, C) matrix, which plain cross entropy keeps as well, only
    the memory of one block is used, and the backward pass is one multiplication.

    Args:
        logits: (R, L) with L >= C, any floating dtype; computed in float32 or better.
        gt_classes: (R,) int64 in [0, C). Rows of weight 0 may hold any valid label.
        sample_weights: (R,), s_r.
        weighted_exponentials: called once per block of rows, without gradient. The own-class entry,
            whose weight is 1, is asked for as a logarithm because it may underflow.
        num_columns: C; the softmax is over the first C columns of the logits.

    Returns:
        The loss, a scalar in float32 or better, and the other columns of the logits, (R, L - C).
        Whoever uses those takes them from here: the gradient is then written once, not added up.
    """
    return _WeightedSoftmaxLoss.apply(
        logits, gt_classes, sample_weights, weighted_exponentials, num_columns
    )


class _WeightedSoftmaxLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, gt_classes, sample_weights, weighted_exponentials, num_columns):
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        exponentials = torch.empty(len(logits), num_columns, dtype=dtype, device=logits.device)
        sums = exponentials.new_empty(len(logits), 1)
        log_own = torch.empty_like(sums)
        for rows in row_blocks(exponentials):
            block = logits[rows, :num_columns].to(dtype)
            log_own[rows] = weighted_exponentials(rows, block, exponentials[rows])
            sums[rows] = exponentials[rows].sum(dim=1, keepdim=True)
        log_probabilities = log_own - sums.log()
        sample_weights = sample_weights.to(dtype)[:, None]
        ctx.save_for_backward(exponentials, sums, log_probabilities, gt_classes, sample_weights)
        ctx.logits_dtype = logits.dtype
        return -(log_probabilities * sample_weights).sum(), logits[:, num_columns:].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output, grad_other_columns):
        exponentials, sums, log_probabilities, gt_classes, sample_weights = ctx.saved_tensors
        sample_weights = sample_weights * grad_output
        scale = sample_weights / sums
        num_samples, num_columns = exponentials.shape
        grad_logits = exponentials.new_empty(
            num_samples, num_columns + grad_other_columns.shape[1], dtype=ctx.logits_dtype
        )
        grad_logits[:, num_columns:] = grad_other_columns
        for rows in row_blocks(exponentials):
            grad_logits[rows, :num_columns] = exponentials[rows] * scale[rows]
        own_grad = log_probabilities.expm1() * sample_weights
        grad_logits.scatter_(1, gt_classes[:, None], own_grad.to(ctx.logits_dtype))
        return grad_logits, None, None, None, None
