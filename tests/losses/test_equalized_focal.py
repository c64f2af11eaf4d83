import pytest
import torch

from eql_seesaw.losses import EqualizedFocalLoss
from tests.losses import reference
from tests.losses.batches import assert_equal_over_steps

K = 4


def with_statistics(**arguments):
    """Ratios 0.5, 1, 3 (cut to 1) and 0."""
    loss = EqualizedFocalLoss(K, **arguments)
    loss.positive_gradients.copy_(torch.tensor([5.0, 10.0, 30.0, 0.0]))
    loss.negative_gradients.fill_(10.0)
    return loss


def central_difference(function, z, step=1e-5):
    return (function(z + step) - function(z - step)) / (2 * step)


@pytest.mark.parametrize("alpha, gamma, scale", [(0.25, 2.0, 8.0), (0.5, 1.5, 4.0)])
def test_equals_the_equation_over_steps(alpha, gamma, scale):
    """Loss and statistics; a step's exponents come from the statistics before it."""
    loss = EqualizedFocalLoss(K, alpha=alpha, gamma=gamma, scale=scale)
    arguments = (alpha, gamma, scale, central_difference)
    assert_equal_over_steps(loss, reference.equalized_focal, *arguments, rel=1e-7)
    assert loss.exponents().unique().numel() == K


def test_exponents_by_hand():
    assert with_statistics().exponents().tolist() == [6, 2, 2, 10]
    assert EqualizedFocalLoss(K, gamma=1.5).exponents().tolist() == [1.5] * K
