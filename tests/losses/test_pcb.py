import pytest
import torch
from torch.nn import functional as F

from eql_seesaw.losses import PairwiseClassBalanceLoss
from tests.losses import reference
from tests.losses.batches import assert_equal_over_steps, random_batch

K = 4


def batch(seed, num_logits=K + 1):
    return random_batch(K, num_logits, seed, num_samples=12)


@pytest.mark.parametrize("alpha, momentum", [(0.4, 0.99), (0.9, 0.3)])
@pytest.mark.parametrize("background", [True, False])
def test_equals_the_equations_over_steps(alpha, momentum, background):
    """Loss and statistics; a step has those before it."""
    loss = PairwiseClassBalanceLoss(
        K, alpha=alpha, momentum=momentum, start=0.0, num_steps=9, background=background
    )
    assert_equal_over_steps(loss, reference.pcb, alpha, momentum)


def test_by_hand():
    """Of class 1's scores 0.3 are class 0's, of class 0's none are class 1's."""
    loss = PairwiseClassBalanceLoss(2, alpha=0.5, start=0.0, num_steps=9)
    loss.confusion.copy_(torch.tensor([[0.7, 0.3], [0.0, 1.0]], dtype=torch.float64))
    logits = torch.tensor([[0.0, 1.0, -1.0]] * 3, dtype=torch.float64, requires_grad=True)
    gt_classes = torch.tensor([0, 1, 2])
    value = loss(logits, gt_classes)["loss_cls"]
    value.backward()
    # Labels: class 0 keeps its own; class 1 gives 0.3 / 1.3 of its half; background its own.
    given = 0.5 * 0.3 / 1.3
    labels = torch.eye(3, dtype=torch.float64)
    labels[1, :2] = torch.tensor([given, 1 - given])
    log_p = logits.detach().log_softmax(dim=1)
    torch.testing.assert_close(value, -(labels * log_p).sum() / 3)
    torch.testing.assert_close(logits.grad, (log_p.exp() - labels) / 3)


def test_starts_after_its_share_of_the_steps():
    """Those with foreground, of which an empty batch is none; before it is cross entropy."""
    loss = PairwiseClassBalanceLoss(K, num_steps=6, start=0.5)
    is_cross_entropy = []
    for step in range(5):
        logits, gt_classes = batch(step)
        value = loss(logits, gt_classes)["loss_cls"]
        loss(logits[:0], gt_classes[:0])
        is_cross_entropy.append(torch.allclose(value, F.cross_entropy(logits, gt_classes)))
    assert is_cross_entropy == [True, True, True, False, False] and loss.steps == 5


def test_a_class_without_samples_is_taken_for_itself():
    loss = PairwiseClassBalanceLoss(K, alpha=1.0, start=0.0, num_steps=9)
    logits, _ = batch(1)
    loss(logits, torch.full((12,), 3))
    # The first samples of class 0 give to class 3, which is known to be taken for it.
    given = loss.confusion[3, 0] / (1 + loss.confusion[3, 0])
    log_p = logits[:1].log_softmax(dim=1)[0]
    expected = -(given * log_p[3] + (1 - given) * log_p[0])
    torch.testing.assert_close(loss(logits[:1], torch.tensor([0]))["loss_cls"], expected)


def test_statistics_are_saved():
    loss, other = (PairwiseClassBalanceLoss(K, num_steps=2) for _ in range(2))
    for step in range(3):
        loss(*batch(step))
    other.load_state_dict(loss.state_dict())
    values = [each(*batch(5))["loss_cls"] for each in (loss, other)]
    torch.testing.assert_close(*values, rtol=0, atol=0)
    assert not torch.allclose(values[0], F.cross_entropy(*batch(5)))


def test_a_class_that_nothing_is_taken_for_keeps_its_labels():
    loss = PairwiseClassBalanceLoss(K, start=0.0, num_steps=9)
    logits, _ = batch(1)
    loss.confusion[:, 0] = 0
    gt_classes = torch.zeros(12, dtype=torch.int64)
    value = loss.eval()(logits, gt_classes)["loss_cls"]
    torch.testing.assert_close(value, F.cross_entropy(logits, gt_classes))
