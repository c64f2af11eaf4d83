"""Statistics of what samples of a class are taken for."""

import torch
from torch import Tensor

from .base import float32_or_better
from .row_blocks import row_blocks


def confusion_statistics(logits: Tensor, gt_classes: Tensor, num_classes: int) -> dict[str, Tensor]:
    """
    Args:
        logits: (R, L), any floating dtype, those of the K classes first.
        gt_classes: (R,) int64 in [0, K]; background counts for nothing.
        num_classes: K.

    Returns:
        ``probability_sums``, float64 (K, K): the softmax over the classes, summed over the samples
        of each class, a row each; and ``samples``, int64 (K,), their numbers.
    """
    sums = logits.new_zeros(num_classes + 1, num_classes, dtype=torch.float64)
    for rows in row_blocks(logits):
        p = float32_or_better(logits[rows, :num_classes]).softmax(dim=1)
        sums.index_add_(0, gt_classes[rows], p.double())
    samples = gt_classes.new_zeros(num_classes + 1)
    samples.scatter_add_(0, gt_classes, torch.ones_like(gt_classes))
    return {"probability_sums": sums[:-1], "samples": samples[:-1]}
