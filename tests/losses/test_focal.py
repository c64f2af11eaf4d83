import math

import pytest
import torch

from eql_seesaw.losses import FocalLoss
from tests.losses import reference
from tests.losses.batches import assert_equal

K = 4


@pytest.mark.parametrize("alpha, gamma", [(0.25, 2.0), (0.5, 0.0), (1.0, 5.0), (0.0, 0.5)])
def test_equals_the_equation(alpha, gamma):
    loss = FocalLoss(K, alpha=alpha, gamma=gamma)
    assert_equal(loss, reference.focal, alpha, gamma, rel=1e-10)


def test_by_hand():
    # All probabilities 1/2. Divided by both samples, not by the one that is foreground.
    value = FocalLoss(2)(torch.zeros(2, 2), torch.tensor([0, 2]))["loss_cls"].item()
    assert value == pytest.approx((0.25 + 3 * 0.75) * 0.25 * math.log(2) / 2)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_gradient_where_the_modulating_factor_is_zero(gamma):
    """A power of exactly 0 below 1 would have an infinite derivative there."""
    logits = torch.tensor([[200.0, -200.0, -200.0, -200.0]], requires_grad=True)
    FocalLoss(K, gamma=gamma)(logits, torch.tensor([0]))["loss_cls"].backward()
    assert (logits.grad == 0).all()


def test_a_large_own_logit_takes_nothing_from_the_other_terms():
    logits = torch.tensor([[1e30, -1.0, 0.0, 1.0]])
    value = FocalLoss(K)(logits, torch.tensor([0]))["loss_cls"].item()
    expected = reference.focal([[700.0, -1.0, 0.0, 1.0]], [0], 0.25, 2.0)
    assert value == pytest.approx(expected, rel=1e-6)
