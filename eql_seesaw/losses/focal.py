"""Sigmoid focal loss."""

from torch import Tensor
from torch.nn import functional as F

from .links import SigmoidLink
from .sigmoid import SigmoidLoss, weighted_sigmoid


class FocalTerms(SigmoidLink):
    r"""
    Terms with the modulating factor, :math:`-p^\gamma \log(1 - p)` of a negative.

    Args:
        gamma: of all classes, or (K,) of each.
    """

    def __init__(self, gamma: float | Tensor):
        self.gamma = gamma

    def exponent(self, classes: Tensor | slice) -> float | Tensor:
        return self.gamma[classes] if isinstance(self.gamma, Tensor) else self.gamma

    def negative(self, logits: Tensor, classes: Tensor | slice) -> Tensor:
        return F.softplus(logits, threshold=40) * logits.sigmoid() ** self.exponent(classes)

    def negative_derivative(self, logits: Tensor, classes: Tensor | slice) -> Tensor:
        p, gamma = logits.sigmoid(), self.exponent(classes)
        return p**gamma * (p + gamma * (1 - p) * F.softplus(logits, threshold=40))


class FocalLoss(SigmoidLoss):
    r"""
    Focal loss of https://arxiv.org/abs/1708.02002, eq. 5, over K independent sigmoids:

    .. math::
        L = -\frac{1}{R} \sum_r \sum_j \alpha_{rj} (1 - \hat p_{rj})^\gamma \log \hat p_{rj}

    with :math:`\hat p = p` and :math:`\alpha_{rj} = \alpha` for the sample's own class,
    :math:`\hat p = 1 - p` and :math:`\alpha_{rj} = 1 - \alpha` for the others.

    The sum is divided by all R samples, as the sigmoid cross entropy that the EQL paper compares it
    with (table 5). The focal loss paper, whose detector has no proposals, divides by the number of
    foreground samples.

    Args:
        num_classes: K. Takes K logits; a background sample is a negative of every class.
        alpha: weight of the positive terms; 1 - alpha is that of the negative ones.
        gamma: exponent of the modulating factor; 0 switches it off.
        prior_probability: probability of every class at the start of training.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        alpha: float = 0.25,
        gamma: float = 2.0,
        prior_probability: float = 0.001,
    ):
        super().__init__(num_classes, prior_probability)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        if gamma < 0:
            raise ValueError(f"gamma must not be negative, got {gamma}")
        self.alpha = alpha
        self.gamma = gamma

    def sample_losses(
        self, logits: Tensor, gt_classes: Tensor, annotated_classes: Tensor | None
    ) -> Tensor:
        return weighted_sigmoid(
            logits,
            gt_classes,
            weights=lambda rows: 1 - self.alpha,
            own_weights=logits.new_full((self.num_classes,), self.alpha),
            link=FocalTerms(self.gamma),
        )

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, alpha={self.alpha}, gamma={self.gamma}"
