import pytest
import torch

from eql_seesaw.losses import EquilibriumLoss
from tests.losses import reference
from tests.losses.batches import assert_equal_over_steps, random_batch

K = 4
SCORES = [0.5, 0.002, 0.2, 0.05]


def with_scores(**arguments):
    loss = EquilibriumLoss(K, **arguments)
    loss.mean_scores.copy_(torch.tensor(SCORES))
    return loss


@pytest.mark.parametrize("momentum", [0.99, 0.5])
@pytest.mark.parametrize("background", [True, False])
def test_equals_the_equations_over_steps(momentum, background):
    """Loss and mean scores; a step has those before it."""
    loss = EquilibriumLoss(K, momentum=momentum, background=background)
    assert_equal_over_steps(loss, reference.equilibrium, momentum, 0.01)


def test_by_hand():
    """Two samples of class 1 with probabilities of 1/4, and none of the others."""
    loss = with_scores(momentum=0.9, background=False)
    value = loss(torch.zeros(2, K), torch.tensor([1, 1]))["loss_cls"]
    assert value.exp().item() == pytest.approx(sum(SCORES) / 0.002)
    expected = [0.5, 0.81 * 0.002 + 0.19 / 4, 0.2, 0.05]
    assert loss.mean_scores.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_no_momentum_and_nothing_but_momentum(momentum):
    loss = with_scores(momentum=momentum, objectness=True)
    logits, gt_classes = random_batch(K, K + 2, seed=1)
    gt_classes[gt_classes == 2] = K
    loss(logits, gt_classes)
    probabilities = logits[:, :K].softmax(dim=1)
    for c in range(K):
        own = probabilities[gt_classes == c, c]
        expected = own.mean().item() if len(own) and momentum == 0 else SCORES[c]
        assert loss.mean_scores[c].item() == pytest.approx(expected)


def test_a_class_that_scores_nothing_stays_finite():
    loss = EquilibriumLoss(K, momentum=0.0)
    logits = torch.tensor([[-1e4, 0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    loss(logits, torch.tensor([0]))
    assert loss.mean_scores[0] == 0
    assert loss(logits, torch.tensor([0]))["loss_cls"].isfinite()
