"""Softmax cross entropy whose negative classes are weighted, the core of Seesaw and softmax EQL."""

from collections.abc import Callable

import torch
from torch.autograd.function import once_differentiable

from .row_blocks import row_blocks

# (own classes (r, 1), logits (r, C) in float32 or better, out (r, C)) -> (r, 1). Fills ``out`` with
# what is proportional, row by row, to w_rj exp(z_rj); returns the logarithm of its own-class entry.
WeightedExponentials = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def weighted_softmax_loss(
    logits: torch.Tensor,
    gt_classes: torch.Tensor,
    weighted_exponentials: WeightedExponentials,
    num_columns: int,
    included: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""
    Softmax cross entropy in which sample r sees class j with weight :math:`w_{rj}`:

    .. math:: L = \sum_r \Bigl( \log \sum_j w_{rj} e^{z_{rj}} - z_{r y_r} \Bigr)

    Both S eq. 4 (Seesaw, https://arxiv.org/abs/2008.10032) and E eq. 10 (softmax EQL,
    https://arxiv.org/abs/2003.05176) have this form. No gradient flows through the weights. Rows
    are processed in blocks: beyond one (R, C) matrix, which plain cross entropy keeps as well, only
    the memory of one block is used, and the backward pass is one multiplication. On CPU, where
    most rows are not included, those are not read.

    Args:
        logits: (R, L) with L >= C, any floating dtype; computed in float32 or better.
        gt_classes: (R,) int64 in [0, C); any such label where not included.
        weighted_exponentials: called once per block of rows, without gradient. The own-class entry,
            whose weight is 1, is asked for as a logarithm because it may underflow.
        num_columns: C; the softmax is over the first C columns of the logits.
        included: bool (R,), the samples that the sum is over; None for all.

    Returns:
        The loss, a scalar in float32 or better, and the other columns of the logits, (R, L - C).
        Whoever uses those takes them from here: the gradient is then written once, not added up.
    """
    return _WeightedSoftmaxLoss.apply(
        logits, gt_classes, weighted_exponentials, num_columns, included
    )


class _WeightedSoftmaxLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, gt_classes, weighted_exponentials, num_columns, included):
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        samples = None
        if included is not None and _are_few(included):
            samples, included = included.nonzero()[:, 0], None
            gt_classes = gt_classes[samples]
        own = gt_classes[:, None]
        # bfloat16 has the range of float32, float16 has not.
        exponentials = torch.empty(
            len(own),
            num_columns,
            dtype=logits.dtype if logits.dtype == torch.bfloat16 else dtype,
            device=logits.device,
        )
        sums = torch.empty(len(own), 1, dtype=dtype, device=logits.device)
        log_own = torch.empty_like(sums)
        for rows in row_blocks(exponentials):
            block = logits[rows] if samples is None else logits.index_select(0, samples[rows])
            block = block[:, :num_columns].to(dtype)
            out = exponentials[rows] if exponentials.dtype == dtype else torch.empty_like(block)
            log_own[rows] = weighted_exponentials(own[rows], block, out)
            torch.sum(out, dim=1, keepdim=True, out=sums[rows])
            if exponentials.dtype != dtype:
                exponentials[rows] = out
        log_probabilities = log_own - sums.log()
        if included is not None:
            log_probabilities *= included[:, None]  # what is not finite stays so, to be noticed
        ctx.save_for_backward(exponentials, sums, log_probabilities, own, samples, included)
        ctx.logits_dtype = logits.dtype
        return -log_probabilities.sum(), logits[:, num_columns:].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output, grad_other_columns):
        exponentials, sums, log_probabilities, own, samples, included = ctx.saved_tensors
        num_columns = exponentials.shape[1]
        shape = len(grad_other_columns), num_columns + grad_other_columns.shape[1]
        new = exponentials.new_empty if samples is None else exponentials.new_zeros
        grad_logits = new(shape, dtype=ctx.logits_dtype)
        grad_logits[:, num_columns:] = grad_other_columns
        scale = grad_output / sums
        if included is not None:
            scale.masked_fill_(~included[:, None], 0)
        own_grad = log_probabilities.expm1() * grad_output
        if samples is not None:
            classes = grad_logits[:, :num_columns]
            for rows in row_blocks(exponentials):
                grad = (exponentials[rows] * scale[rows]).scatter_(1, own[rows], own_grad[rows])
                classes.index_copy_(0, samples[rows], grad.to(ctx.logits_dtype))
            return grad_logits, None, None, None, None
        for rows in row_blocks(exponentials):
            torch.mul(exponentials[rows], scale[rows], out=grad_logits[rows, :num_columns])
        # Not by scatter_, which copies all of a bfloat16 matrix on CPU.
        all_rows = torch.arange(len(own), device=own.device)
        grad_logits[all_rows, own[:, 0]] = own_grad[:, 0].to(ctx.logits_dtype)
        return grad_logits, None, None, None, None


def _are_few(included):
    """Whether it pays to copy the rows that are included. On a GPU, looking would take longer."""
    return included.device.type == "cpu" and bool(2 * included.sum() < len(included))
