import pytest
import torch
from torch.nn import functional as F

from eql_seesaw.losses import SoftmaxEqualizationLossV2
from eql_seesaw.losses.softmax_eql_v2 import GRADIENT_FLOOR
from tests.losses import reference
from tests.losses.batches import random_batch

K = 4
GRADIENTS = [0.0, 1.0, 10.0, 400.0]


def batch(seed, num_logits=K + 1, num_samples=9):
    return random_batch(K, num_logits, seed, num_samples)


def with_statistics(**arguments):
    loss = SoftmaxEqualizationLossV2(K, **arguments)
    loss.positive_gradients.copy_(torch.tensor(GRADIENTS))
    return loss


@pytest.mark.parametrize("tau", [1.0, 0.4])
@pytest.mark.parametrize("background", [True, False])
def test_equals_the_equation_over_steps(tau, background):
    """Loss and statistics; a step's ratios come from the statistics before it."""
    loss = SoftmaxEqualizationLossV2(K, tau=tau, background=background)
    gradients = [0.0] * K
    for step in range(4):
        logits, gt_classes = batch(step, loss.num_logits)
        gt_classes.clamp_(max=loss.num_logits - 1)
        value = loss(logits, gt_classes)["loss_cls"]
        expected, gradients = reference.softmax_eql_v2(
            logits.tolist(), gt_classes.tolist(), gradients, tau, GRADIENT_FLOOR
        )
        assert value.item() == pytest.approx(expected, rel=1e-10)
        assert loss.positive_gradients.tolist() == pytest.approx(gradients, rel=1e-10)


@pytest.mark.parametrize("objectness", [True, False])
def test_statistics_are_the_gradients(objectness):
    """R |dL/dz| of the samples' own classes, which background does not have."""
    loss = with_statistics(objectness=objectness)
    logits, gt_classes = batch(1, loss.num_logits)
    loss(logits, gt_classes)["loss_cls"].backward()
    gradients = len(logits) * logits.grad[:, :K].abs()
    own = F.one_hot(gt_classes, K + 1)[:, :K]
    found = loss.positive_gradients - torch.tensor(GRADIENTS)
    torch.testing.assert_close(found, (gradients * own).sum(dim=0))
    assert found.sum() > 0


def test_by_hand():
    """A sample of class 1 sees classes 0, 2 and 3 with weights 0.05, 10 and 400, all p alike."""
    loss = with_statistics(background=False)
    value = loss(torch.zeros(1, K), torch.tensor([1]))["loss_cls"]
    assert value.exp().item() == pytest.approx(GRADIENT_FLOOR + 1 + 10 + 400)


def test_first_step_and_no_strength_are_cross_entropy():
    logits, gt_classes = batch(3)
    expected = F.cross_entropy(logits, gt_classes)
    for loss in (SoftmaxEqualizationLossV2(K), with_statistics(tau=0.0)):
        torch.testing.assert_close(loss(logits, gt_classes)["loss_cls"], expected)


def test_statistics_are_saved():
    loss, other = with_statistics(), SoftmaxEqualizationLossV2(K)
    assert set(loss.state_dict()) == {"positive_gradients"}
    other.load_state_dict(loss.state_dict())
    logits, gt_classes = batch(5)
    torch.testing.assert_close(loss(logits, gt_classes), other(logits, gt_classes), rtol=0, atol=0)
