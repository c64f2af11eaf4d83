"""Softmax cross entropy, Detectron2's own classification loss."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from .base import class_vector, float32_or_better
from .softmax import SoftmaxLoss


class SoftmaxCrossEntropy(SoftmaxLoss):
    r"""
    Cross entropy of a softmax over K classes and background, averaged over all R samples.

    With ``reweighting`` it is the generalised re-weighting (GRW) of DisAlign,
    https://arxiv.org/abs/2103.16370, as in its released code: a mean with weights
    :math:`w_j \propto n_j^{-\rho}`, of mean 1 over the classes; background has 1.

    Args:
        num_classes: K.
        reweighting: rho; 0 for none.
        instance_counts: (K,), n, training instances of each class; unused without. A class without
            any counts as one with one.
        objectness, background: as for :class:`~.softmax.SoftmaxLoss`; with objectness it is "CE +
            OBJ" in table 8 of the Seesaw paper, https://arxiv.org/abs/2008.10032.
    """

    sample_weights: Tensor | None

    def __init__(
        self,
        num_classes: int,
        *,
        reweighting: float = 0.0,
        instance_counts: Sequence[float] | None = None,
        objectness: bool = False,
        background: bool = True,
    ):
        super().__init__(num_classes, objectness, background)
        if reweighting < 0:
            raise ValueError(f"reweighting must not be negative, got {reweighting}")
        if reweighting and self.objectness:
            raise ValueError("reweighting is for a softmax without the objectness pair")
        self.reweighting = reweighting
        weights = None
        if reweighting:
            counts = class_vector(instance_counts, num_classes, "instance_counts").clamp(min=1)
            weights = counts**-reweighting
            weights = F.pad(weights / weights.mean(), (0, 1), value=1.0)
        # Not in checkpoints: they follow from the training set and the settings of this run.
        self.register_buffer("sample_weights", weights, persistent=False)

    def sample_losses(self, logits: Tensor, gt_classes: Tensor) -> Tensor:
        losses = F.cross_entropy(float32_or_better(logits), gt_classes, reduction="none")
        if self.sample_weights is None:
            return losses
        weights = self.sample_weights[gt_classes].to(losses.dtype)
        return losses * weights / weights.mean()

    def extra_repr(self) -> str:
        return (
            f"num_classes={self.num_classes}, reweighting={self.reweighting}, "
            f"objectness={self.objectness}"
        )
