import math

import pytest
import torch

from eql_seesaw.losses import SeesawLoss
from tests.losses import reference
from tests.losses.batches import random_batch

K = 7


def with_counts(counts, **arguments):
    return SeesawLoss(len(counts), counts="fixed", instance_counts=counts, **arguments)


@pytest.mark.parametrize("p, q", [(0.8, 2.0), (0.0, 2.0), (0.8, 0.0), (1.2, 0.5)])
def test_equals_the_equations(p, q):
    logits, gt_classes = random_batch(K, K + 2)
    counts = [0, 50, 100_000, 1, 3, 50, 0]
    losses = with_counts(counts, p=p, q=q)(logits, gt_classes)
    expected = reference.seesaw(
        logits[:, :K].tolist(), gt_classes.tolist(), counts, p=p, q=q, eps=1e-2
    )
    assert losses["loss_cls"].item() == pytest.approx(expected, rel=1e-12)
    objectness = reference.cross_entropy(
        logits[:, K:].tolist(), [int(y == K) for y in gt_classes.tolist()]
    )
    assert losses["loss_cls_objectness"].item() == pytest.approx(objectness, rel=1e-12)


def test_by_hand():
    # Two classes with equal logits: sigma = 1/2 each, so compensation is 1. Class 0 has 16 samples,
    # class 1 has 1: mitigation of class 1 under a sample of class 0 is (1/16)^(1/2) = 1/4.
    loss = with_counts([16, 1], p=0.5, q=2.0)
    logits = torch.zeros(1, 4)
    assert loss(logits, torch.tensor([0]))["loss_cls"].item() == pytest.approx(math.log(1.25))
    assert loss(logits, torch.tensor([1]))["loss_cls"].item() == pytest.approx(math.log(2))
    # sigma = (1/4, 3/4), a sample of class 0: compensation 3^2, so 1 + (1/4) 9 * 3.
    logits = torch.tensor([[0.0, math.log(3), 0.0, 0.0]])
    assert loss(logits, torch.tensor([0]))["loss_cls"].item() == pytest.approx(math.log(7.75))
    # Each objectness logit at 0 costs log 2.
    assert loss(logits, torch.tensor([0]))["loss_cls_objectness"].item() == pytest.approx(
        math.log(2)
    )


def test_floor_of_the_own_probability():
    # sigma_own = 1 / (1 + e^9) = 1.2e-4 is below eps = 0.1, so the factor is (sigma_1 / 0.1)^2.
    logits = torch.tensor([[0.0, 9.0, 0.0, 0.0]], dtype=torch.float64)
    loss = with_counts([1, 1], eps=0.1)(logits, torch.tensor([0]))["loss_cls"]
    sigma = math.exp(9) / (1 + math.exp(9))
    assert loss.item() == pytest.approx(math.log(1 + (sigma / 0.1) ** 2 * math.exp(9)), rel=1e-12)


@pytest.mark.parametrize("objectness", [True, False])
def test_gradient_treats_the_factors_as_constants(objectness):
    """Gradient, and gradient of a gradient penalty, of the plain form with detached factors."""
    logits, gt_classes = random_batch(K, K + 1 + objectness)
    loss = SeesawLoss(K, objectness=objectness).eval()
    loss.cumulative_counts.copy_(torch.arange(len(loss.cumulative_counts)) ** 3)
    num_columns = K + (not objectness)
    counts = loss.cumulative_counts.clamp(min=1).double()
    sigma = logits.detach()[:, :num_columns].softmax(dim=1)
    expected = 0
    for r, i in enumerate(gt_classes.tolist()):
        if i >= num_columns:
            continue
        mitigation = (counts / counts[i]).clamp(max=1) ** loss.p
        compensation = (sigma[r] / sigma[r, i].clamp(min=loss.eps)).clamp(min=1) ** loss.q
        factors = mitigation * compensation
        factors[i] = 1
        z = logits[r, :num_columns]
        expected = expected + torch.logsumexp(z + factors.log(), 0) - z[i]
    expected = expected / len(gt_classes)
    value = loss(logits, gt_classes)["loss_cls"]
    penalties = []
    for x in (value, expected):
        (gradient,) = torch.autograd.grad(x, logits, create_graph=True)
        (of_penalty,) = torch.autograd.grad(gradient.square().sum(), logits)
        penalties.append((gradient.detach(), of_penalty))
    for actual, plain in zip(*penalties, strict=True):
        torch.testing.assert_close(actual, plain, rtol=1e-10, atol=1e-13)


def test_counts_are_updated_before_use_add_up_and_are_saved():
    loss = SeesawLoss(2, p=1.0, q=0.0)
    logits = torch.zeros(4, 4)
    gt_classes = torch.tensor([0, 0, 1, 2])
    value = loss(logits, gt_classes)["loss_cls"].item()
    assert loss.cumulative_counts.tolist() == [2, 1]
    # Counts (2, 1): a sample of class 0 sees class 1 with weight 1/2, one of class 1 sees 1.
    assert value == pytest.approx((2 * math.log(1.5) + math.log(2)) / 4)
    loss(logits, torch.tensor([1, 1, 1, 2]))
    assert loss.cumulative_counts.tolist() == [2, 4]
    other = SeesawLoss(2)
    other.load_state_dict(loss.state_dict())
    assert other.cumulative_counts.tolist() == [2, 4]


def test_background_is_counted_only_as_a_class_of_its_own():
    loss = SeesawLoss(2, objectness=False)
    loss(torch.zeros(3, 3), torch.tensor([2, 2, 0]))
    assert loss.cumulative_counts.tolist() == [1, 0, 2]
    # Otherwise it gives the logits of classes no gradient.
    logits = torch.randn(4, K + 2, requires_grad=True)
    sum(SeesawLoss(K)(logits, torch.full((4,), K)).values()).backward()
    assert (logits.grad[:, :K] == 0).all() and (logits.grad[:, K:] != 0).all()


def test_fixed_and_online_counts_load_into_each_other():
    """A run keeps its own counts, also as a part of a model."""
    fixed, online = with_counts([5, 6, 7]), SeesawLoss(3)
    fixed(torch.zeros(1, 5), torch.tensor([0]))  # counts nothing
    online.cumulative_counts.copy_(torch.tensor([1, 2, 3]))
    models = [torch.nn.Sequential(loss) for loss in (fixed, online)]
    states = [model.state_dict() for model in models]
    for model, state in zip(models, reversed(states), strict=True):
        model.load_state_dict(state)
    assert fixed.cumulative_counts.tolist() == [5, 6, 7]
    assert online.cumulative_counts.tolist() == [1, 2, 3]
    assert list(states[1]) == ["0.cumulative_counts"] and not states[0]


def test_predicted_classes():
    logits = torch.tensor([[0.0, 3, 1, 5, 4], [0, 3, 1, 4, 5], [9, 3, 1, 0, 0]])
    assert SeesawLoss(3).predicted_classes(logits).tolist() == [1, 3, 0]
    assert SeesawLoss(3, objectness=False).predicted_classes(
        torch.tensor([[0.0, 0, 1, 2], [0, 3, 1, 2]])
    ).tolist() == [3, 1]


@pytest.mark.parametrize("ratio, p", [(1e8, 4.0), (1e12, 4.0), (1e18, 1.0)])
def test_extreme_count_ratios(ratio, p):
    """Factors far below the smallest float32."""
    loss = with_counts([ratio, 1], p=p)
    logits = torch.tensor([[0.0, 80.0, 0, 0], [80.0, 0, 0, 0]], requires_grad=True)
    value = loss(logits, torch.tensor([0, 1]))["loss_cls"]
    value.backward()
    # Both are mistaken, with compensation (1 / 0.01)^2; only the first is mitigated.
    expected = math.log1p(ratio**-p * 1e4 * math.exp(80)) + math.log(1e4) + 80
    assert value.item() == pytest.approx(expected / 2, rel=1e-6)
    assert torch.isfinite(logits.grad).all()
