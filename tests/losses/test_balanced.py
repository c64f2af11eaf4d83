"""Balanced softmax in both forms, and logit adjustment."""

import math

import pytest
import torch

from eql_seesaw.losses import build_loss
from tests.losses import reference
from tests.losses.batches import assert_equal, random_batch

# A class without images counts as one with one.
IMAGE_COUNTS = [0, 7, 100, 5000, 10_000]
COUNTED = [1, 7, 100, 5000, 10_000]
K = len(IMAGE_COUNTS)
STATISTICS = {"image_counts": IMAGE_COUNTS, "num_images": 10_000}


def build(name, **arguments):
    return build_loss(name, K, **STATISTICS, **arguments)


def value(name, logits, gt_classes, **arguments):
    return build(name, **arguments)(logits, gt_classes)["loss_cls"].item()


def test_balanced_softmax_equals_the_equation():
    mean = sum(COUNTED) / K
    offsets = [math.log(n / mean) for n in COUNTED] + [0.0]
    assert_equal(build("balanced_softmax"), reference.offset_softmax, lambda y: offsets)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_logit_adjustment_equals_the_equation(tau):
    offsets = [tau * math.log(n / sum(COUNTED)) for n in COUNTED] + [0.0]
    assert_equal(build("logit_adjustment", tau=tau), reference.offset_softmax, lambda y: offsets)


def test_they_are_the_same_for_images():
    """Without background the level of all classes makes no difference."""
    logits, _ = random_batch(K, K)
    gt_classes = torch.arange(len(logits)) % K
    first, second = (
        value(name, logits, gt_classes, background=False)
        for name in ("balanced_softmax", "logit_adjustment")
    )
    assert first == pytest.approx(second, rel=1e-12)


def test_balanced_sigmoid_equals_the_equation():
    """A class in all images counts as in all but one."""
    frequencies = [n / 10_000 for n in (1, 7, 100, 5000, 9999)]
    assert_equal(build("balanced_sigmoid"), reference.balanced_sigmoid, frequencies)


def test_a_set_of_one_image():
    loss = build_loss("balanced_sigmoid", 2, image_counts=[1, 0], num_images=1)
    assert loss.log_odds.tolist() == [0.0, 0.0]
