import math

import pytest
import torch

from eql_seesaw.losses import EqualizationLossV2
from tests.losses import reference
from tests.losses.batches import assert_equal_over_steps, random_batch

K = 4


def with_statistics(**arguments):
    """Ratios 0.01, 0.8 (f = 1/2), 0.9 and 50."""
    loss = EqualizationLossV2(K, **arguments)
    loss.positive_gradients.copy_(torch.tensor([0.1, 8.0, 9.0, 5.0]))
    loss.negative_gradients.copy_(torch.tensor([10.0, 10.0, 10.0, 0.1]))
    return loss


@pytest.mark.parametrize("gamma, mu, alpha", [(12.0, 0.8, 4.0), (5.0, 0.3, 0.0)])
def test_equals_the_equations_over_steps(gamma, mu, alpha):
    """Loss and statistics; a step's weights come from the statistics before it."""
    loss = EqualizationLossV2(K, gamma=gamma, mu=mu, alpha=alpha)
    assert_equal_over_steps(loss, reference.eql_v2, gamma, mu, alpha)


def test_by_hand():
    # Class 1 has ratio mu, so f = 1/2: positive weight 3, negative weight 1/2. Class 3 has f = 1,
    # class 0 almost 0, and the last logit weights 1. All probabilities 1/2.
    loss = with_statistics()
    positive, negative = loss.weights()
    assert positive[[1, 3, 4]].tolist() == pytest.approx([3, 1, 1])
    assert negative[[1, 3, 4]].tolist() == pytest.approx([0.5, 1, 1])
    f = 1 / (1 + math.exp(12 * 0.79))
    assert negative[0].item() == pytest.approx(f) and positive[0].item() == pytest.approx(5 - 4 * f)
    logits = torch.zeros(1, K + 1, dtype=torch.float64, requires_grad=True)
    value = loss(logits, torch.tensor([1]))["loss_cls"]
    value.backward()
    f_2 = 1 / (1 + math.exp(-12 * 0.1))
    assert value.item() == pytest.approx((f + 3 + f_2 + 1 + 1) * math.log(2))
    assert logits.grad[0].tolist() == pytest.approx([f / 2, -1.5, f_2 / 2, 0.5, 0.5])
    assert loss.positive_gradients.tolist() == pytest.approx([0.1, 9.5, 9, 5])


def test_half_precision_logits_do_not_round_the_statistics():
    """float32 sums would lose a gradient of 0.5 at 2^24, float16 ones at 2^10."""
    loss = EqualizationLossV2(K)
    loss.negative_gradients.fill_(2.0**30)
    loss.positive_gradients.fill_(2.0**37)
    loss(torch.zeros(1, K + 1, dtype=torch.float16, requires_grad=True), torch.tensor([0]))
    assert loss.negative_gradients.tolist() == [2.0**30] + [2.0**30 + 0.5] * 3
    assert loss.positive_gradients.tolist() == [2.0**37 + 0.5] + [2.0**37] * 3


def test_probabilities_and_predicted_classes():
    logits, _ = random_batch(K, K + 1)
    loss = EqualizationLossV2(K)
    for row, predicted, z in zip(
        loss.probabilities(logits).tolist(),
        loss.predicted_classes(logits).tolist(),
        logits.tolist(),
    ):
        background = reference.sigmoid(z[K])
        assert row == pytest.approx(
            [reference.sigmoid(x) * (1 - background) for x in z[:K]] + [background]
        )
        assert predicted == (K if z[K] > 0 else z.index(max(z[:K])))
