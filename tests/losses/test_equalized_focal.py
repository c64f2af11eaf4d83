import pytest
import torch

from eql_seesaw.losses import EqualizedFocalLoss, FocalLoss
from tests.losses import reference
from tests.losses.batches import random_batch

K = 4


def batch(seed, num_samples=9):
    return random_batch(K, K, seed, num_samples)


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
    positive = negative = [0.0] * K
    for step in range(4):
        logits, gt_classes = batch(step)
        value = loss(logits, gt_classes)["loss_cls"]
        expected, positive, negative = reference.equalized_focal(
            logits.tolist(),
            gt_classes.tolist(),
            positive,
            negative,
            alpha,
            gamma,
            scale,
            central_difference,
        )
        assert value.item() == pytest.approx(expected, rel=1e-7)
        assert loss.positive_gradients.tolist() == pytest.approx(positive, rel=1e-7)
        assert loss.negative_gradients.tolist() == pytest.approx(negative, rel=1e-7)
    assert loss.exponents().unique().numel() == K


def test_statistics_are_the_gradients():
    """R |dL/dz| of the final loss: after alpha, weight and focusing."""
    loss = with_statistics()
    before = loss.positive_gradients.clone(), loss.negative_gradients.clone()
    logits, gt_classes = batch(2)
    loss(logits, gt_classes)["loss_cls"].backward()
    gradients = len(logits) * logits.grad.abs()
    own = torch.nn.functional.one_hot(gt_classes, K + 1)[:, :K].bool()
    torch.testing.assert_close(loss.positive_gradients - before[0], (gradients * own).sum(dim=0))
    torch.testing.assert_close(loss.negative_gradients - before[1], (gradients * ~own).sum(dim=0))


def test_exponents_by_hand():
    assert with_statistics().exponents().tolist() == [6, 2, 2, 10]
    assert EqualizedFocalLoss(K, gamma=1.5).exponents().tolist() == [1.5] * K


def test_first_step_is_focal_loss():
    logits, gt_classes = batch(3)
    value = EqualizedFocalLoss(K)(logits, gt_classes)["loss_cls"]
    torch.testing.assert_close(value, FocalLoss(K)(logits, gt_classes)["loss_cls"])
    # It is no longer, now that there are statistics, if the scale is not 0.
    for scale, differs in ((8.0, True), (0.0, False)):
        value = with_statistics(scale=scale)(logits, gt_classes)["loss_cls"]
        same = torch.isclose(value, FocalLoss(K)(logits, gt_classes)["loss_cls"])
        assert same.item() != differs


def test_statistics_are_saved():
    loss, other = with_statistics(), EqualizedFocalLoss(K)
    assert set(loss.state_dict()) == {"positive_gradients", "negative_gradients"}
    other.load_state_dict(loss.state_dict())
    logits, gt_classes = batch(5)
    torch.testing.assert_close(loss(logits, gt_classes), other(logits, gt_classes), rtol=0, atol=0)
