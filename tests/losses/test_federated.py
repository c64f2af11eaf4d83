import math

import pytest
import torch

from eql_seesaw.losses import FederatedLoss
from tests.losses import reference
from tests.losses.batches import random_batch

COUNTS = [0, 1, 4, 9, 100, 400, 10_000, 3]
K = len(COUNTS)


def build(seed=0, **arguments):
    generator = torch.Generator().manual_seed(seed)
    return FederatedLoss(K, **{"image_counts": COUNTS, "generator": generator, **arguments})


@pytest.mark.parametrize("seed", range(2))
def test_equals_the_equation(seed):
    logits, chosen = random_batch(2, K, seed)
    gt_classes = torch.tensor([1, 5, K])[chosen]
    classes = build(seed, num_sampled=5).sample_classes(gt_classes).nonzero()[:, 0].tolist()
    value = build(seed, num_sampled=5)(logits, gt_classes)["loss_cls"].item()
    expected = reference.federated(logits.tolist(), gt_classes.tolist(), classes)
    assert value == pytest.approx(expected, rel=1e-10)


def test_by_hand():
    # One sample of class 6 and nothing drawn: log 2 from its own class, and no other gradient.
    logits = torch.zeros(1, K, requires_grad=True)
    value = build(num_sampled=1)(logits, torch.tensor([6]))["loss_cls"]
    value.backward()
    assert value.item() == pytest.approx(math.log(2))
    assert logits.grad.tolist() == [[0, 0, 0, 0, 0, 0, -0.5, 0]]


@pytest.mark.parametrize(
    "labels, num_sampled, num_classes",
    [
        ([1, 5], 5, 5),
        ([1, 5, K], 5, 4),
        ([K], 1, 0),
        ([1, 2, 3, 4, 5, 6], 5, 6),
        ([K, 1, 2, 3, 4, 5], 5, 5),
    ],
)
def test_number_of_classes(labels, num_sampled, num_classes):
    """Background counts as one of the classes; the classes of the batch all take part."""
    loss = build(num_sampled=num_sampled)
    for _ in range(20):
        classes = loss.sample_classes(torch.tensor(labels))
        assert classes.shape == (K,) and classes.sum() == num_classes
        assert all(classes[y] for y in labels if y < K)


def test_a_class_without_images_is_never_drawn():
    loss = build(num_sampled=100)
    assert loss.sample_classes(torch.tensor([K])).tolist() == [False] + [True] * (K - 1)
    # ... but takes part where the batch has it.
    assert loss.sample_classes(torch.tensor([0])).all()


def test_draws_follow_the_image_counts():
    """First draws have probability sqrt(n_j) / sum sqrt(n)."""
    loss = build(num_sampled=1)
    empty = torch.zeros(0, dtype=torch.int64)
    counts = sum(loss.sample_classes(empty).double() for _ in range(4000))
    weights = torch.tensor(COUNTS, dtype=torch.float64).sqrt()
    assert (counts / 4000 - weights / weights.sum()).abs().max() < 0.03
    loss = build(num_sampled=1, frequency_power=0.0)
    counts = sum(loss.sample_classes(empty).double() for _ in range(4000))
    assert counts[0] == 0 and (counts[1:] / 4000 - 1 / (K - 1)).abs().max() < 0.03
