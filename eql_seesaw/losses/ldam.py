"""Label-distribution-aware margin loss (LDAM)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import class_vector, computation_dtype
from .softmax import SoftmaxLoss, offset_softmax


class LDAMLoss(SoftmaxLoss):
    r"""
    LDAM loss of https://arxiv.org/abs/1906.07413, eq. 13, with the scale s of its released code,
    for a sample of class y whose logits are :math:`z_j = s \cos_j`:

    .. math:: L = -\log \frac{e^{z_y - s m_y}}{e^{z_y - s m_y} + \sum_{j \ne y} e^{z_j}}, \qquad
        m_y \propto n_y^{-1/4}, \quad \max_k m_k = m

    The rarer the class, the larger the margin by which its samples must win. Background, which the
    paper does not know, has none. The paper's deferred re-weighting (DRW) is left out.

    Args:
        num_classes: K.
        instance_counts: (K,), n_j, training instances of each class; 0 counts as 1.
        max_margin: m, of the rarest class, as a difference of cosines.
        scale: s; None for the temperature of the normalised classifier, which the margins share: of
            the layer that :meth:`init_classifier` gets, or 20. The released code has 30.
        objectness, background: as for :class:`~.softmax.SoftmaxLoss`.
    """

    normed_classifier = True
    margins: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        instance_counts: Sequence[float] | None = None,
        max_margin: float = 0.5,
        scale: float | None = None,
        objectness: bool = False,
        background: bool = True,
    ):
        super().__init__(num_classes, objectness, background)
        if max_margin < 0:
            raise ValueError(f"max_margin must not be negative, got {max_margin}")
        if scale is not None and scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.max_margin = max_margin
        self.follows_classifier = scale is None
        self.scale = 20.0 if scale is None else scale
        n = class_vector(instance_counts, num_classes, "instance_counts").clamp(min=1)
        margins = max_margin * (n.min() / n) ** 0.25
        margins = F.pad(margins, (0, self.num_columns - num_classes))
        # Not in checkpoints: they follow from the training set and the settings of this run.
        self.register_buffer("margins", margins, persistent=False)

    def sample_losses(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        s_m = self.scale * self.margins.to(computation_dtype(logits))

        def offsets(z: Tensor, rows: slice) -> Tensor:
            """s m_y for all but the own class, instead of -s m_y for that."""
            i = gt_classes[rows, None]
            return s_m[i].expand_as(z).scatter(1, i, torch.zeros_like(s_m[i]))

        return offset_softmax(logits, gt_classes, offsets)

    def init_classifier(self, classifier: nn.Linear) -> None:
        super().init_classifier(classifier)
        if self.follows_classifier:
            self.scale = float(getattr(classifier, "temperature", self.scale))

    def extra_repr(self) -> str:
        return (
            f"num_classes={self.num_classes}, max_margin={self.max_margin}, scale={self.scale}, "
            f"objectness={self.objectness}"
        )
