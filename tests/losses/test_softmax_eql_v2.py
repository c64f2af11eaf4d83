import pytest
import torch

from eql_seesaw.losses import SoftmaxEqualizationLossV2
from eql_seesaw.losses.softmax_eql_v2 import GRADIENT_FLOOR
from tests.losses import reference
from tests.losses.batches import assert_equal_over_steps

K = 4
GRADIENTS = [0.0, 1.0, 10.0, 400.0]


def with_statistics(**arguments):
    loss = SoftmaxEqualizationLossV2(K, **arguments)
    loss.positive_gradients.copy_(torch.tensor(GRADIENTS))
    return loss


@pytest.mark.parametrize("tau", [1.0, 0.4])
@pytest.mark.parametrize("background", [True, False])
def test_equals_the_equation_over_steps(tau, background):
    """Loss and statistics; a step's ratios come from the statistics before it."""
    loss = SoftmaxEqualizationLossV2(K, tau=tau, background=background)
    assert_equal_over_steps(loss, reference.softmax_eql_v2, tau, GRADIENT_FLOOR)


def test_by_hand():
    """A sample of class 1 sees classes 0, 2 and 3 with weights 0.05, 10 and 400, all p alike."""
    loss = with_statistics(background=False)
    value = loss(torch.zeros(1, K), torch.tensor([1]))["loss_cls"]
    assert value.exp().item() == pytest.approx(GRADIENT_FLOOR + 1 + 10 + 400)
