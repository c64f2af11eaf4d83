"""Sigmoid cross entropy, the baseline of the EQL paper."""

from .sigmoid import SigmoidLoss


class SigmoidCrossEntropy(SigmoidLoss):
    """
    Binary cross entropy of K independent sigmoids, summed over classes, divided by all R samples:
    E eq. 2 to 4 (https://arxiv.org/abs/2003.05176), which is EQL with lambda = 0.

    Args:
        num_classes: K. Takes K logits; a background sample is a negative of every class.
        prior_probability, link: as for :class:`~.sigmoid.SigmoidLoss`.
    """

    def __init__(
        self, num_classes: int, *, prior_probability: float | None = None, link: str = "sigmoid"
    ):
        super().__init__(num_classes, prior_probability, link=link)
