"""Precision and devices around a loss change neither what it computes nor what it holds."""

import pytest
import torch

from eql_seesaw.losses import build_loss
from tests.losses.test_interface import (
    DIFFERENTIABLE,
    STATISTICS,
    K,
    batch,
    build,
    every_loss,
    total,
)

VARIANTS = [*DIFFERENTIABLE, ("seesaw", {}), ("seesaw", {"objectness": False})]
NUM_SAMPLES = 16_384
PRECISIONS = [
    (logits_dtype, autocast_dtype)
    for half in (torch.float16, torch.bfloat16)
    for logits_dtype, autocast_dtype in ((torch.float32, half), (half, half), (half, None))
]


def step(loss, logits, gt_classes, autocast_dtype=None):
    """Loss, gradient and statistics of a training step."""
    logits = logits.detach().clone().requires_grad_()
    with torch.autocast("cpu", autocast_dtype, enabled=autocast_dtype is not None):
        value = total(loss, logits, gt_classes)
    # Not divided by the number of samples, so that float16 can hold it: a loss scale.
    (NUM_SAMPLES * value).backward()
    return value.detach(), logits.grad, loss.state_dict()


@every_loss
@pytest.mark.parametrize(
    "cast",
    [
        torch.nn.Module.float,
        torch.nn.Module.half,
        torch.nn.Module.double,
        lambda model: model.to(dtype=torch.bfloat16).to(torch.float32),
    ],
)
def test_casting_the_model_changes_nothing(name, cast):
    """Between two steps of a training, so that there are statistics."""
    losses = [build(name) for _ in range(2)]
    logits, gt_classes = batch(losses[0], 20)
    for loss in losses:
        step(loss, logits, gt_classes)
    model = cast(torch.nn.Sequential(losses[1], torch.nn.Linear(2, 2)))
    expected, actual = (step(loss, logits, gt_classes) for loss in (losses[0], model[0]))
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@every_loss
def test_loss_built_on_the_meta_device(name):
    """The numbers of the training set survive, and of training there are none yet."""
    with torch.device("meta"):
        loss = build(name)
        classifier = torch.nn.Linear(3, loss.num_logits)
        loss.init_classifier(classifier)
    assert classifier.weight.is_meta
    loss = loss.to_empty(device="cpu")
    logits, gt_classes = batch(loss, 20)
    torch.testing.assert_close(
        step(loss, logits, gt_classes), step(build(name), logits, gt_classes), rtol=0, atol=0
    )
    loss.to("meta")
    assert all(buffer.is_meta for buffer in loss.buffers())


@pytest.mark.parametrize("logits_dtype, autocast_dtype", PRECISIONS)
@pytest.mark.parametrize("name, arguments", VARIANTS)
def test_half_precision_and_autocast_change_nothing(name, arguments, logits_dtype, autocast_dtype):
    """Not even where a sum over many samples leaves the range of float16."""
    losses = [build_loss(name, K, **STATISTICS, **arguments) for _ in range(2)]
    logits, gt_classes = batch(losses[0], NUM_SAMPLES, scale=8.0)
    logits = logits.to(logits_dtype)
    expected, expected_gradient, expected_statistics = step(losses[0], logits.float(), gt_classes)
    value, gradient, statistics = step(losses[1], logits, gt_classes, autocast_dtype)
    assert value.dtype == torch.float32 and gradient.dtype == logits_dtype
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(statistics, expected_statistics, rtol=1e-5, atol=0)
    expected_gradient = expected_gradient.to(logits_dtype)
    # To the last digit of the logits' dtype; the smallest number of float16 is 6e-8.
    rtol = max(1e-5, 2 * torch.finfo(logits_dtype).eps)
    torch.testing.assert_close(gradient, expected_gradient, rtol=rtol, atol=1.2e-7)
