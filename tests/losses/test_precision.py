"""A loss is computed in float32 or better, whatever the precision around it."""

import pytest
import torch

from eql_seesaw.losses import build_loss
from tests.losses.test_interface import DIFFERENTIABLE, STATISTICS, K, batch, total

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
