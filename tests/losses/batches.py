"""Samples to compare a loss with its slow form on."""

import pytest
import torch


def random_batch(num_classes, num_logits, seed=0, num_samples=9):
    """float64 logits (R, L), which ask for a gradient, and labels (R,) in [0, K]."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num_samples, num_logits, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, num_classes + 1, (num_samples,), generator=generator)
    return logits.requires_grad_(), labels


def batch_of(loss, seed=0, num_samples=9):
    """Logits and labels that a loss takes."""
    logits, labels = random_batch(loss.num_classes, loss.num_logits, seed, num_samples)
    return logits, labels.clamp_(max=loss.num_classes - 1 + loss.background)


def assert_equal(loss, slow_form, *arguments, num_samples=20, rel=1e-12):
    """A loss beside its slow form, which takes lists of logits and labels, and ``arguments``."""
    logits, labels = batch_of(loss, num_samples=num_samples)
    expected = slow_form(logits.tolist(), labels.tolist(), *arguments)
    assert loss(logits, labels)["loss_cls"].item() == pytest.approx(expected, rel=rel)


def assert_equal_over_steps(loss, slow_step, *arguments, num_samples=9, rel=1e-10):
    """
    Loss and statistics of a few steps, each with the statistics before it, beside a slow form.

    Args:
        slow_step: of logits, labels, the loss's statistics in the order of its buffers, and
            ``arguments``; gives the loss and the statistics after the step.
    """
    statistics = [buffer.tolist() for buffer in loss.state_dict().values()]
    for step in range(4):
        logits, labels = batch_of(loss, step, num_samples)
        value = loss(logits, labels)["loss_cls"].item()
        expected, *statistics = slow_step(logits.tolist(), labels.tolist(), *statistics, *arguments)
        assert value == pytest.approx(expected, rel=rel)
        for buffer, slow in zip(loss.state_dict().values(), statistics, strict=True):
            slow = torch.tensor(slow, dtype=buffer.dtype)
            torch.testing.assert_close(buffer, slow, rtol=rel, atol=0)
