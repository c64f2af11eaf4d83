import math

import pytest
import torch

from eql_seesaw.losses import ClassBalancedLoss, SigmoidCrossEntropy
from tests.losses import reference

COUNTS = [1, 3, 20, 500]
K = len(COUNTS)


def batch(seed, num_samples=9):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num_samples, K, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, K + 1, (num_samples,), generator=generator)


def build(**arguments):
    return ClassBalancedLoss(K, **{"instance_counts": COUNTS, **arguments})


@pytest.mark.parametrize("beta", [0.5, 0.99, 0.999])
def test_equals_the_equation(beta):
    logits, gt_classes = batch(0)
    value = build(beta=beta)(logits, gt_classes)["loss_cls"].item()
    expected = reference.class_balanced(logits.tolist(), gt_classes.tolist(), COUNTS, beta)
    assert value == pytest.approx(expected, rel=1e-10)


def test_by_hand():
    # Effective numbers 1 and 1 + 1/2 + 1/4 = 7/4, so weights 1 : 4/7, which is 14/11 and 8/11.
    loss = ClassBalancedLoss(2, instance_counts=[1, 3], beta=0.5)
    assert loss.sample_weights.tolist() == pytest.approx([14 / 11, 8 / 11, 1])
    for gt_class, weight in enumerate([14 / 11, 8 / 11, 1]):
        logits = torch.zeros(1, 2, requires_grad=True)
        value = loss(logits, torch.tensor([gt_class]))["loss_cls"]
        assert value.item() == pytest.approx(2 * weight * math.log(2))
        value.backward()
        signs = [-1 if j == gt_class else 1 for j in range(2)]
        assert logits.grad[0].tolist() == pytest.approx([s * weight / 2 for s in signs])


def test_beta_zero_is_sigmoid_cross_entropy():
    logits, gt_classes = batch(2)
    torch.testing.assert_close(
        build(beta=0.0)(logits, gt_classes), SigmoidCrossEntropy(K)(logits, gt_classes)
    )


def test_towards_one_weights_near_the_inverse_counts():
    weights = build(beta=1 - 1e-9).sample_weights
    assert (weights[0] / weights[3]).item() == pytest.approx(500, rel=1e-4)


def test_a_class_without_instances_counts_as_one_with_one():
    weights = build(instance_counts=[0, 1, 20, 500]).sample_weights
    assert weights[0] == weights[1] and torch.isfinite(weights).all()
