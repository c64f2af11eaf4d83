"""Seesaw loss."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import class_vector, computation_dtype
from .softmax import SoftmaxLoss, offset_softmax

COUNTS = ("online", "fixed")


class SeesawLoss(SoftmaxLoss):
    r"""
    Seesaw loss of https://arxiv.org/abs/2008.10032 ("S"), eq. 4 to 8, for a sample of class i:

    .. math::
        L = -\log \frac{e^{z_i}}{\sum_{j \ne i} S_{ij} e^{z_j} + e^{z_i}}, \qquad
        S_{ij} = M_{ij} \, C_{ij}

    * mitigation :math:`M_{ij} = \min(1, N_j / N_i)^p` reduces the pressure of a frequent class i on
      a rarer class j; N are counts of training samples,
    * compensation :math:`C_{ij} = \max(1, \sigma_j / \max(\sigma_i, \epsilon))^q` raises it where
      the sample is mistaken for j; :math:`\sigma` is the softmax of the logits, without gradient.

    The class loss is over foreground samples, divided by all R samples. With the objectness pair, a
    second cross entropy separates foreground from background, and a class's probability is
    :math:`\sigma^{det} = \sigma^{class} \sigma^{obj}`; without it, background is one more class of
    the softmax, with its own count.

    Args:
        num_classes: K. Takes K + 2 logits (K classes, foreground, background) with ``objectness``,
            K + 1 otherwise, background last, and K without ``background``.
        p: exponent of the mitigation factor; 0 switches it off.
        q: exponent of the compensation factor; 0 switches it off.
        eps: floor of the own-class probability in the compensation factor.
        objectness: use of the objectness pair.
        background: False for image classification without a background class; there is then no
            objectness either.
        counts: "online" counts the sampled proposals, summed over ranks, before they are used in
            the same step. "fixed" takes ``instance_counts`` (S table 4: from the dataset, or
            recorded in an earlier run); these know no count of background as a class.
        instance_counts: (K,) for "fixed"; unused otherwise.
    """

    normed_classifier = True
    cumulative_counts: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        p: float = 0.8,
        q: float = 2.0,
        eps: float = 1e-2,
        objectness: bool = True,
        background: bool = True,
        counts: str = "online",
        instance_counts: Sequence[float] | None = None,
    ):
        super().__init__(num_classes, objectness, background)
        if p < 0 or q < 0:
            raise ValueError(f"p and q must not be negative, got p={p}, q={q}")
        if not 0 < eps <= 1:
            raise ValueError(f"eps must be in (0, 1], got {eps}")
        if counts not in COUNTS:
            raise ValueError(f"counts must be one of {COUNTS}, got {counts!r}")
        if counts == "fixed" and self.num_columns > num_classes:
            raise ValueError('counts="fixed" knows no background count; it needs objectness=True')
        self.p = p
        self.q = q
        self.eps = eps
        self.counts = counts
        if counts == "fixed":
            initial = class_vector(instance_counts, num_classes, "instance_counts").long()
        else:
            initial = torch.zeros(self.num_columns, dtype=torch.int64, device="cpu")
        # Fixed counts follow from this run's settings, so no checkpoint may replace them.
        self.register_buffer("cumulative_counts", initial, persistent=counts == "online")

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        # Of a loss with "online" counts into one with "fixed", or the other way: it keeps its own.
        key = f"{prefix}cumulative_counts"
        if self.counts == "fixed":
            state_dict.pop(key, None)
        else:
            state_dict.setdefault(key, self.cumulative_counts)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def label_statistics(self, gt_classes: Tensor) -> dict[str, Tensor]:
        if self.counts == "fixed":
            return {}
        counts = gt_classes.new_zeros(self.num_classes + 1)
        counts.scatter_add_(0, gt_classes, torch.ones_like(gt_classes))
        return {"cumulative_counts": counts[: self.num_columns]}

    def sample_counts(self) -> Tensor | None:
        return self.cumulative_counts[: self.num_classes] if self.counts == "online" else None

    def extra_repr(self) -> str:
        return (
            f"num_classes={self.num_classes}, p={self.p}, q={self.q}, eps={self.eps}, "
            f"objectness={self.objectness}, counts={self.counts}"
        )

    def sample_losses(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        n = self.p * self.cumulative_counts.clamp(min=1).double().log()  # p log N_j
        n = n.to(computation_dtype(logits))

        def log_factors(z: Tensor, rows: slice) -> Tensor:
            """log M_ij + log C_ij of samples of class i."""
            i = gt_classes[rows, None]
            log_mitigation = (n - n[i]).clamp_(max=0)
            log_sigma = z.log_softmax(dim=1)
            log_floor = log_sigma.gather(1, i).clamp(min=math.log(self.eps))
            log_compensation = (log_sigma - log_floor).clamp_(min=0).mul_(self.q)
            return log_mitigation + log_compensation

        return offset_softmax(logits, gt_classes, log_factors)
