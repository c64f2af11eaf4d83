import math

import pytest
import torch

from eql_seesaw.losses import BalancedGroupSoftmax
from tests.losses import reference
from tests.losses.batches import random_batch

# Groups (bounds 10, 100, 1000): {1, 4}, {0, 6}, {}, {2, 3, 5}.
COUNTS = [10, 9, 1000, 5000, 0, 99_999, 99]
GROUPS = [[1, 4], [0, 6], [], [2, 3, 5]]
K = len(COUNTS)
NUM_LOGITS = K + 4 + 2


def batch(seed, num_samples=30):
    logits, gt_classes = random_batch(K, NUM_LOGITS, seed, num_samples)
    gt_classes[num_samples // 2 :] = K
    return logits, gt_classes


def build(seed=0, **arguments):
    generator = torch.Generator().manual_seed(seed)
    return BalancedGroupSoftmax(K, instance_counts=COUNTS, generator=generator, **arguments)


def in_groups(gt_classes):
    return torch.tensor([[y in group for group in GROUPS] for y in gt_classes.tolist()])


@pytest.mark.parametrize("others_ratio", [0.0, 0.7, 2.0, 100.0])
def test_equals_the_equations(others_ratio):
    logits, gt_classes = batch(0)
    drawn = build(others_ratio=others_ratio).sample_others(in_groups(gt_classes))
    losses = build(others_ratio=others_ratio)(logits, gt_classes)
    class_loss, objectness_loss = reference.bags(
        logits.tolist(), gt_classes.tolist(), GROUPS, drawn.tolist()
    )
    assert losses["loss_cls"].item() == pytest.approx(class_loss, rel=1e-10)
    assert losses["loss_cls_objectness"].item() == pytest.approx(objectness_loss, rel=1e-10)


def test_by_hand():
    # Groups {0} and {1, 2}, a sample of class 1, logits 0: only the second group has a sample; its
    # softmax is over its two classes and "others".
    loss = BalancedGroupSoftmax(3, instance_counts=[5, 50, 60], group_bounds=(10,), others_ratio=0)
    logits = torch.zeros(1, 7, requires_grad=True)
    losses = loss(logits, torch.tensor([1]))
    assert losses["loss_cls"].item() == pytest.approx(math.log(3))
    assert losses["loss_cls_objectness"].item() == pytest.approx(math.log(2))
    sum(losses.values()).backward()
    # classes 0, 1, 2; "others" of the groups; foreground, background
    assert logits.grad[0].tolist() == pytest.approx([0, -2 / 3, 1 / 3, 0, 1 / 3, -1 / 2, 1 / 2])
    # A background sample is in no group, and alone it is drawn by none.
    losses = loss(torch.zeros(1, 7), torch.tensor([3]))
    assert losses["loss_cls"] == 0 and losses["loss_cls_objectness"].item() == pytest.approx(
        math.log(2)
    )


def test_number_of_drawn_others():
    gt_classes = torch.tensor([1, 4, 0, 2] + [K] * 40)
    in_group = in_groups(gt_classes)
    loss = build(others_ratio=8.5)
    drawn = loss.sample_others(in_group)
    assert not (drawn & in_group).any()
    # 2, 1, 0 and 1 samples in the groups; 8.5 times as many, rounded down; at most those there are.
    assert drawn.sum(dim=0).tolist() == [17, 8, 0, 8]
    assert build(others_ratio=1e3).sample_others(in_group).sum(dim=0).tolist() == [42, 43, 0, 43]


def test_others_are_drawn_evenly():
    """Background and the foreground of other groups alike."""
    gt_classes = torch.tensor([1, 0, 2, K, K])
    loss = build(others_ratio=2.0)
    counts = sum(loss.sample_others(in_groups(gt_classes))[:, 0].int() for _ in range(2000))
    assert counts[0] == 0
    assert (counts[1:].float() / 2000 - 0.5).abs().max() < 0.06


def test_probabilities():
    logits, _ = batch(3)
    loss = build()
    for row, z in zip(loss.probabilities(logits).tolist(), logits.tolist()):
        foreground, background = reference.softmax(z[-2:])
        expected = [0.0] * K + [background]
        for g, group in enumerate(GROUPS):
            for j, p in zip(group, reference.softmax([z[K + g]] + [z[j] for j in group])[1:]):
                expected[j] = p * foreground
        assert row == pytest.approx(expected)


def test_one_group():
    loss = BalancedGroupSoftmax(2, instance_counts=[1, 2], group_bounds=())
    assert loss.num_logits == 5
    assert loss(torch.zeros(1, 5), torch.tensor([0]))["loss_cls"].item() == pytest.approx(
        math.log(3)
    )
