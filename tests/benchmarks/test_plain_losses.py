"""The plain forms are the same losses as ours, so that the benchmark compares like with like."""

import functools
import inspect

import pytest
import torch

from eql_seesaw.benchmarks import plain_losses
from eql_seesaw.benchmarks.plain_losses import PLAIN_LOSSES, build_plain_loss
from eql_seesaw.losses import LOSSES, build_loss

IMAGE_COUNTS = [3, 9, 10, 40, 100, 101, 500, 1000, 7000]
K = len(IMAGE_COUNTS)
# Settings without chance: all are drawn, or none.
ALL_DRAWN = {"softmax_eql": {"gamma": 1.0}, "bags": {"others_ratio": 1e6}}
ALL_DRAWN["federated"] = {"num_sampled": K + 1}
NONE_DRAWN = {"softmax_eql": {"gamma": 0.0}, "bags": {"others_ratio": 0.0}}
NONE_DRAWN["federated"] = {"num_sampled": 1}


def ours(name, **settings):
    return build_loss(name, K, image_counts=IMAGE_COUNTS, instance_counts=IMAGE_COUNTS, **settings)


def batch(num_logits, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(40, num_logits, generator=generator)
    gt_classes = torch.randint(0, K + 1, (40,), generator=generator)
    gt_classes[20:] = K
    return logits.to(dtype), gt_classes


def loss_and_gradient(loss, logits, gt_classes):
    logits = logits.clone().requires_grad_()
    value = loss(logits, gt_classes)
    value = sum(value.values()) if isinstance(value, dict) else value
    return value.detach(), torch.autograd.grad(value, logits)[0]


def assert_same_loss(plain, loss, dtype=torch.float32, steps=1):
    for step in range(steps):
        logits, gt_classes = batch(loss.num_logits, step, dtype)
        value, gradient = loss_and_gradient(plain, logits, gt_classes)
        expected_value, expected_gradient = loss_and_gradient(loss, logits, gt_classes)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected_value, rtol=1e-5, atol=1e-6)
        tolerance = 1e-6 if dtype == torch.float32 else 1e-3
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=tolerance)


def test_losses_that_have_a_peer():
    """All that come with the project; one that is added may do without."""
    peers = {*PLAIN_LOSSES, "seesaw", "eql"}
    assert len(peers) == 10 and peers <= LOSSES.keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("drawn", [ALL_DRAWN, NONE_DRAWN])
@pytest.mark.parametrize("name", PLAIN_LOSSES)
def test_same_loss_and_gradient(name, drawn, dtype):
    settings = drawn.get(name, {})
    plain = functools.partial(build_plain_loss(name, IMAGE_COUNTS), **settings)
    # Three steps: EQL v2 sees what it accumulated.
    assert_same_loss(plain, ours(name, **settings), dtype, steps=3)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("focal", {"alpha": 0.6, "gamma": 1.0}),
        ("class_balanced", {"beta": 0.9}),
        ("eql_v2", {"gamma": 3.0, "mu": 0.2, "alpha": 1.5}),
    ],
)
def test_settings(name, settings):
    plain = functools.partial(build_plain_loss(name, IMAGE_COUNTS), **settings)
    assert_same_loss(plain, ours(name, **settings), steps=2)


@pytest.mark.parametrize("name", PLAIN_LOSSES)
def test_defaults_are_those_of_build_loss(name):
    loss = ours(name)
    for parameter in inspect.signature(getattr(plain_losses, name)).parameters.values():
        if parameter.default is not parameter.empty:
            assert parameter.default == getattr(loss, parameter.name)


def test_federated_draws_as_many_classes():
    counts = [10] * 200
    plain = build_plain_loss("federated", counts)
    for labels in ([*range(40), 200], [*range(40)]):
        gt_classes = torch.tensor(labels)
        _, gradient = loss_and_gradient(plain, torch.zeros(len(labels), 200), gt_classes)
        num_sampled = int((gradient != 0).any(dim=0).sum())
        assert num_sampled == 50 - (200 in labels)


def test_softmax_eql_leaves_out_as_often():
    plain = build_plain_loss("softmax_eql", IMAGE_COUNTS)
    gt_classes = torch.full((20_000,), K - 1)
    _, gradient = loss_and_gradient(plain, torch.zeros(20_000, K + 1), gt_classes)
    left_out = (gradient == 0).float().mean(dim=0)
    torch.testing.assert_close(left_out[:5], torch.full((5,), 0.95), rtol=0, atol=0.01)
    assert (left_out[5:] == 0).all()


def test_bags_draws_as_many_others():
    counts = [1] * 5 + [50] * 5
    plain = build_plain_loss("bags", counts)
    gt_classes = torch.tensor([0, 1] + [10] * 98)
    _, gradient = loss_and_gradient(plain, torch.zeros(100, 16), gt_classes)
    # "Others" of the group of the first five classes.
    assert int((gradient[:, 10] != 0).sum()) == 2 + 16
