"""Links between logits and probabilities of independent classes, with the terms of their loss."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


class SigmoidLink:
    r"""
    :math:`p = \sigma(z)`, and binary cross entropy. The loss of a sample has a positive term of its
    own class, a function of that class's logit, and a negative one of each other class.

    A subclass has another link, or other terms. Its functions are of floating logits (r, C) and of
    ``classes``: ``slice(None)``, then C is all of them, or int64 (r, 1), then C is 1 and these are
    the samples' own.
    """

    prior_probability = 0.001  # of the released code of the losses with it

    def negative(self, logits: Tensor, classes: Tensor | slice) -> Tensor:
        """-log(1 - p)."""
        return F.softplus(logits, threshold=40)

    def negative_derivative(self, logits: Tensor, classes: Tensor | slice) -> Tensor:
        """That of the negative term by the logit."""
        return logits.sigmoid()

    def positive(self, logits: Tensor, classes: Tensor | slice) -> Tensor:
        """-log p, the negative term of the opposite logit."""
        return self.negative(-logits, classes)

    def positive_derivative(self, logits: Tensor, classes: Tensor | slice) -> Tensor:
        """That of the positive term by the logit."""
        return -self.negative_derivative(-logits, classes)

    def probabilities(self, logits: Tensor) -> Tensor:
        """p, of the logits' shape."""
        return logits.sigmoid()

    def logit(self, probability: float) -> float:
        """The logit with this probability."""
        return math.log(probability / (1 - probability))


# Logits of the Gumbel link in between which e^-z and its exponential are in the range of float32.
LOWEST_LOGIT = -4.0
HIGHEST_LOGIT = 80.0


class GumbelLink(SigmoidLink):
    r"""
    :math:`p = e^{-e^{-z}}`, the distribution function of Gumbel, with binary cross entropy: Gumbel
    optimized loss (GOL), https://arxiv.org/abs/2207.10936. The logit of a negative has hardly any
    gradient where it is low, that of a positive an exponential one.

    Below :math:`z = -4` the positive term goes on as a straight line, so that it stays finite. The
    released code cuts the logits there, so that such a sample teaches its class nothing.
    """

    # The bias of the released code is -2.
    prior_probability = math.exp(-math.exp(2))

    def negative(self, logits: Tensor, classes: Tensor | slice) -> Tensor:
        # From the highest logit on it is the logit itself.
        return (logits - HIGHEST_LOGIT).clamp(min=0) - (
            -torch.expm1(-_clamped_minus_log_p(logits))
        ).log()

    def negative_derivative(self, logits: Tensor, classes: Tensor | slice) -> Tensor:
        minus_log_p = _clamped_minus_log_p(logits)
        return minus_log_p / torch.expm1(minus_log_p)

    def positive(self, logits: Tensor, classes: Tensor | slice) -> Tensor:
        return _clamped_minus_log_p(logits) * (1 + (LOWEST_LOGIT - logits).clamp(min=0))

    def positive_derivative(self, logits: Tensor, classes: Tensor | slice) -> Tensor:
        return -_clamped_minus_log_p(logits)

    def probabilities(self, logits: Tensor) -> Tensor:
        return (-(-logits).exp()).exp()

    def logit(self, probability: float) -> float:
        return -math.log(-math.log(probability))


def _clamped_minus_log_p(logits: Tensor) -> Tensor:
    """-log p of the Gumbel link, of logits cut to the range above."""
    return (-logits.clamp(LOWEST_LOGIT, HIGHEST_LOGIT)).exp()


LINKS: dict[str, SigmoidLink] = {"sigmoid": SigmoidLink(), "gumbel": GumbelLink()}
