"""Background rows are left out in two ways, which must agree; a GPU only has one of them."""

import pytest
import torch

from eql_seesaw.losses import build_loss, softmax

K = 5
LOSSES = {
    "seesaw": {},
    "softmax_eql": {"objectness": True, "gamma": 1.0, "image_counts": [500, 3, 90, 200, 1]},
}


def value_and_gradient(name, dtype, are_few, monkeypatch, broken=None):
    monkeypatch.setattr(softmax, "_are_few", lambda included: are_few)
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(12, K + 2, generator=generator)
    gt_classes = torch.tensor([K, 1, 0, K, K, 4, K, 2, K, K, 1, K])
    if broken is not None:
        logits[0, 0] = broken
    logits = logits.to(dtype).requires_grad_()
    losses = build_loss(name, K, **LOSSES[name])(logits, gt_classes)
    sum(losses.values()).backward()
    return losses["loss_cls"].detach(), logits.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_both_ways_agree(name, dtype, monkeypatch):
    value, gradient = value_and_gradient(name, dtype, True, monkeypatch)
    other_value, other_gradient = value_and_gradient(name, dtype, False, monkeypatch)
    torch.testing.assert_close(value, other_value)
    torch.testing.assert_close(gradient, other_gradient)
    background = [0, 3, 4, 6, 8, 9, 11]
    assert not gradient[background, :K].any() and gradient[background, K:].all()
    assert gradient[1, :K].any()


def test_few_of_many(monkeypatch):
    included = torch.tensor([True, False, False])
    assert softmax._are_few(included)
    assert not softmax._are_few(~included)
    assert not softmax._are_few(included.to("meta"))


@pytest.mark.parametrize("masked", [0, 3])
@pytest.mark.parametrize("name", LOSSES)
def test_masked_class(name, masked, monkeypatch):
    """A class with a logit of -inf in all rows is as if it were not there."""
    results = []
    for are_few in (True, False):
        monkeypatch.setattr(softmax, "_are_few", lambda included, are_few=are_few: are_few)
        logits = torch.randn(5, K + 2, generator=torch.Generator().manual_seed(0))
        logits[:, masked] = -torch.inf
        logits.requires_grad_()
        losses = build_loss(name, K, **LOSSES[name])(logits, torch.tensor([K, 1, 2, K, K]))
        sum(losses.values()).backward()
        assert logits.grad.isfinite().all() and not logits.grad[:, masked].any()
        results.append((losses["loss_cls"].detach(), logits.grad))
    assert results[0][0].isfinite()
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_gpu_shows_broken_logits_of_background_rows(broken, monkeypatch):
    """Their gradient is broken too: a step with a finite loss would break the weights."""
    value, gradient = value_and_gradient("seesaw", torch.float32, False, monkeypatch, broken)
    assert not value.isfinite() and not gradient.isfinite().all()
    value, gradient = value_and_gradient("seesaw", torch.float32, True, monkeypatch, broken)
    assert value.isfinite() and gradient.isfinite().all()
