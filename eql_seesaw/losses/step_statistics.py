"""Statistics that losses accumulate in training, summed over all ranks in one all-reduce."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from .base import ClassificationLoss

# A loss, and what a step of this rank contributes to its statistics, by name.
StepStatistics = tuple["ClassificationLoss", dict[str, Tensor]]


def sum_over_ranks(tensors: Sequence[Tensor]) -> list[Tensor]:
    """
    Args:
        tensors: int64 or float64, the same shapes in the same order on every rank, on one device.

    Returns:
        Their sums over ranks, identical on every rank; the tensors themselves without
        torch.distributed. One all-reduce for all of them, and none if there are none. Where both
        dtypes occur it is in float64, which holds integers up to 2^53 exactly.
    """
    if not tensors or not (dist.is_available() and dist.is_initialized()):
        return list(tensors)
    is_mixed = len({tensor.dtype for tensor in tensors}) > 1
    dtype = torch.float64 if is_mixed else tensors[0].dtype
    flat = torch.cat([tensor.flatten().to(dtype) for tensor in tensors])
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [
        part.view(tensor.shape).to(tensor.dtype)
        for part, tensor in zip(parts, tensors, strict=True)
    ]


@contextlib.contextmanager
def summed_together(
    losses: Sequence[ClassificationLoss], gt_classes: Sequence[Tensor]
) -> Iterator[None]:
    """
    Losses that are called once each in this context, as those of cascade stages, sum their
    statistics over ranks together: label statistics on entry, logit statistics on exit, one
    all-reduce each, or none where no loss has any. A loss called by itself does the same for
    itself. In evaluation and under ``no_grad`` nothing is accumulated and nothing is sent.

    Args:
        losses: all on one device, in the same order on every rank.
        gt_classes: of each loss, (R,), the labels that it will be called with.

    Raises:
        ValueError: a label out of range.
    """
    entered = []
    label_statistics = []
    for loss, labels in zip(losses, gt_classes, strict=True):
        if loss.step_statistics is not None:
            continue  # an outer context sums them
        loss.check_labels(labels)
        if loss.training and torch.is_grad_enabled():
            entered.append(loss)
            label_statistics.append((loss, loss.label_statistics(labels.long())))
    _accumulate(label_statistics)
    logit_statistics: list[StepStatistics] = []
    for loss in entered:
        loss.step_statistics = logit_statistics
    try:
        yield
    finally:
        for loss in entered:
            loss.step_statistics = None
    _accumulate(logit_statistics)


@torch.no_grad()
def _accumulate(statistics: Sequence[StepStatistics]) -> None:
    """Hand each loss the sums over ranks of its statistics, if it has any."""
    sums = iter(sum_over_ranks([x for _, step in statistics for x in step.values()]))
    for loss, step in statistics:
        if step:
            loss.update_statistics({name: next(sums) for name in step})
