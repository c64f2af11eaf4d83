"""Losses whose weights follow gradients accumulate those of their final form."""

import pytest
import torch
from torch.nn import functional as F

from eql_seesaw.losses import build_loss
from tests.losses.batches import random_batch

K = 4


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("eql_v2", {}),
        ("equalized_focal", {}),
        ("softmax_eql_v2", {}),
        ("softmax_eql_v2", {"objectness": True}),
    ],
)
def test_statistics_are_the_gradients(name, arguments):
    """R |dL/dz| over the columns of classes, in a step whose weights are not one any more."""
    loss = build_loss(name, K, **arguments)
    loss.positive_gradients.copy_(torch.tensor([0.1, 8.0, 9.0, 40.0]))
    if hasattr(loss, "negative_gradients"):
        loss.negative_gradients.fill_(10.0)
    before = {key: value.clone() for key, value in loss.state_dict().items()}
    logits, gt_classes = random_batch(K, loss.num_logits)
    loss(logits, gt_classes)["loss_cls"].backward()
    gradients = len(logits) * logits.grad[:, :K].abs()
    own = F.one_hot(gt_classes, K + 1)[:, :K].bool()
    expected = {"positive_gradients": gradients * own, "negative_gradients": gradients * ~own}
    for key, value in loss.state_dict().items():
        torch.testing.assert_close(value - before[key], expected[key].sum(dim=0))
