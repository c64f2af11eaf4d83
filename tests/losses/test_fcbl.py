import math

import pytest
import torch

from eql_seesaw.losses import ForegroundClassificationBalanceLoss
from tests.losses import reference
from tests.losses.batches import assert_equal_over_steps, random_batch

K = 4


def batch(seed, num_samples=12):
    return random_batch(K, K + 1, seed, num_samples)


def with_statistics(**arguments):
    loss = ForegroundClassificationBalanceLoss(K, **arguments)
    loss(*batch(7, num_samples=200))
    return loss


@pytest.mark.parametrize("alpha, threshold", [(0.85, 0.7), (1.5, 0.1)])
def test_equals_the_equation_over_steps(alpha, threshold):
    """Loss and statistics; a step's margins come from the statistics before it."""
    loss = ForegroundClassificationBalanceLoss(K, alpha=alpha, score_threshold=threshold)
    assert_equal_over_steps(loss, reference.fcbl, alpha, threshold, num_samples=12)
    assert loss.sample_counts() is loss.samples


def test_margins_by_hand():
    """Of 10 samples of class 0, 4 are taken for 1, and of 20 of class 1, 2 for 0."""
    loss = ForegroundClassificationBalanceLoss(2, alpha=1.0)
    loss.probability_sums.copy_(torch.tensor([[6.0, 4.0], [2.0, 18.0]]))
    loss.samples.copy_(torch.tensor([10, 20]))
    margin = math.log(0.4 / 0.1)
    expected = [[0, margin, 0], [-margin, 0, 0], [0, 0, 0]]
    for row, by_hand in zip(loss.margins(torch.float64).tolist(), expected, strict=True):
        assert row == pytest.approx(by_hand)
    # A sample of class 0 pushes class 1 down as if its logit were larger by the margin.
    value = loss(torch.zeros(1, 3), torch.tensor([0]))["loss_cls"]
    assert value.item() == pytest.approx(2 * math.log(2) + math.log(1 + 4))


def test_what_a_foreground_sample_suppresses():
    """Classes with its own score, or from the threshold, and background."""
    loss = with_statistics(score_threshold=0.7)
    logits = torch.tensor([[2.0, 1.9, 2.0, 1.0, -5.0], [-1.0, -1.1, -2.0, 0.5, -9.0]])
    logits.requires_grad_()
    loss(logits, torch.tensor([0, 0]))["loss_cls"].backward()
    assert logits.grad.ne(0).tolist() == [
        [True, True, True, True, True],
        [True, False, False, True, True],
    ]


def test_the_backward_pass_has_the_margins_of_its_step():
    """Although the statistics have changed in between."""
    logits, gt_classes = batch(4)
    training, standing = with_statistics(), with_statistics().eval()
    training(logits, gt_classes)["loss_cls"].backward()
    gradient, logits.grad = logits.grad, None
    standing(logits, gt_classes)["loss_cls"].backward()
    assert torch.equal(gradient, logits.grad)
    assert not torch.equal(training.probability_sums, standing.probability_sums)
