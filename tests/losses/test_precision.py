"""Precision and devices around a loss change neither what it computes nor what it holds."""

import pytest
import torch

from tests.losses.test_interface import (
    batch,
    build,
    every_loss,
    total,
)

NUM_SAMPLES = 16_384


def step(loss, logits, gt_classes, autocast_dtype=None):
    """Loss, gradient and statistics of a training step."""
    logits = logits.detach().clone().requires_grad_()
    with torch.autocast("cpu", autocast_dtype, enabled=autocast_dtype is not None):
        value = total(loss, logits, gt_classes)
    # Not divided by the number of samples, so that float16 can hold it: a loss scale.
    (NUM_SAMPLES * value).backward()
    return value.detach(), logits.grad, loss.state_dict()


@every_loss
def test_casting_the_model_changes_nothing(name):
    """Between two steps of a training, so that there are statistics."""
    losses = [build(name) for _ in range(2)]
    logits, gt_classes = batch(losses[0], 20)
    for loss in losses:
        step(loss, logits, gt_classes)
    model = torch.nn.Sequential(losses[1], torch.nn.Linear(2, 2))
    model.half().float().double().to(dtype=torch.bfloat16)
    expected, actual = (step(loss, logits, gt_classes) for loss in losses)
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


@pytest.mark.parametrize(
    "logits_dtype, autocast_dtype",
    [(torch.float32, torch.float16), (torch.bfloat16, torch.bfloat16), (torch.float16, None)],
)
@every_loss
def test_half_precision_and_autocast_change_nothing(name, logits_dtype, autocast_dtype):
    """Not even where a sum over many samples leaves the range of float16."""
    losses = [build(name) for _ in range(2)]
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
