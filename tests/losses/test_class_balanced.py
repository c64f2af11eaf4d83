import math

import pytest
import torch

from eql_seesaw.losses import ClassBalancedLoss
from tests.losses import reference
from tests.losses.batches import assert_equal

COUNTS = [1, 3, 20, 500]
K = len(COUNTS)


def build(**arguments):
    return ClassBalancedLoss(K, **{"instance_counts": COUNTS, **arguments})


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.999])
def test_equals_the_equation(beta):
    assert_equal(build(beta=beta), reference.class_balanced, COUNTS, beta, rel=1e-10)


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


def test_a_class_without_instances_counts_as_one_with_one():
    weights = build(instance_counts=[0, 1, 20, 500]).sample_weights
    assert weights[0] == weights[1] and torch.isfinite(weights).all()
