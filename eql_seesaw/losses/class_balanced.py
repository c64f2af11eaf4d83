"""Class-balanced loss."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from .base import class_vector
from .sigmoid import SigmoidLoss, weighted_sigmoid


class ClassBalancedLoss(SigmoidLoss):
    r"""
    Class-balanced loss of https://arxiv.org/abs/1901.05555 in its form with sigmoids, the one to
    compare with sigmoid cross entropy:

    .. math::
        L = -\frac{1}{R} \sum_r w_{y_r} \sum_j \log \hat p_{rj}, \qquad
        w_i \propto \frac{1 - \beta}{1 - \beta^{n_i}}, \quad \sum_i w_i = K

    As in the released code, the weight of a sample's own class multiplies its positive and its
    negative terms. Background, which the paper does not know, has weight 1.

    Args:
        num_classes: K. Takes K logits; a background sample is a negative of every class.
        instance_counts: (K,), n_i, training instances of each class. The paper's "effective number"
            counts samples, which for a detector's classifier are instances, not images. A class
            without any counts as one with one.
        beta: 0 weighs all classes alike; towards 1, w_i nears the inverse of n_i. The default is
            that of the released code for iNaturalist 2018, its largest number of classes.
        prior_probability: probability of every class at the start of training.
    """

    sample_weights: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        instance_counts: Sequence[float] | None = None,
        beta: float = 0.999,
        prior_probability: float = 0.001,
    ):
        super().__init__(num_classes, prior_probability)
        if not 0 <= beta < 1:
            raise ValueError(f"beta must be in [0, 1), got {beta}")
        self.beta = beta
        counts = class_vector(instance_counts, num_classes, "instance_counts").clamp(min=1)
        weights = (1 - beta) / (1 - beta**counts)
        weights *= num_classes / weights.sum()
        # Not in checkpoints: they follow from the training set and the settings of this run.
        self.register_buffer("sample_weights", F.pad(weights, (0, 1), value=1.0), persistent=False)

    def sample_losses(
        self, logits: Tensor, gt_classes: Tensor, annotated_classes: Tensor | None
    ) -> Tensor:
        losses = weighted_sigmoid(logits, gt_classes)
        return losses * self.sample_weights[gt_classes].to(losses.dtype)

    def extra_repr(self) -> str:
        weights = self.sample_weights[:-1]
        return (
            f"num_classes={self.num_classes}, beta={self.beta}, "
            f"weights {weights.min():.2g} to {weights.max():.2g}"
        )
