"""Softmax cross entropy, and what the losses with a softmax share: objectness, no background."""

import pytest
import torch
from torch.nn import functional as F

from eql_seesaw.losses import build_loss
from tests.losses import reference
from tests.losses.batches import assert_equal, random_batch

K = 5
STATISTICS = {"image_counts": [1, 40, 90, 700, 9000], "num_images": 10_000}
every_softmax = pytest.mark.parametrize("name", ["softmax_ce", "softmax_eql", "seesaw"])


def build(name, **arguments):
    return build_loss(name, K, **STATISTICS, **arguments)


def plain(name, **arguments):
    """The loss with settings that make it softmax cross entropy."""
    off = {"softmax_ce": {}, "softmax_eql": {"gamma": 0.0}, "seesaw": {"p": 0.0, "q": 0.0}}
    return build(name, **off[name], **arguments)


def test_equals_the_equation():
    assert_equal(build("softmax_ce"), reference.cross_entropy)


@pytest.mark.parametrize("rho", [0.8, 1.2])
def test_reweighting_equals_the_equation(rho):
    """A class without instances counts as one with one."""
    counts = [0, 40, 90, 700, 9000]
    loss = build("softmax_ce", reweighting=rho, instance_counts=counts)
    logits, gt_classes = random_batch(K, K + 1)
    value = loss(logits, gt_classes)["loss_cls"]
    expected = reference.reweighted_cross_entropy(logits.tolist(), gt_classes.tolist(), counts, rho)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    # As torch has it, whose gradient it is too.
    same = F.cross_entropy(logits, gt_classes, weight=loss.sample_weights)
    gradients = [torch.autograd.grad(x, logits)[0] for x in (value, same)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=0)
    empty = loss(logits[:0], gt_classes[:0])["loss_cls"]
    assert empty == 0 and torch.autograd.grad(empty, logits)[0].count_nonzero() == 0
    assert not loss.state_dict()


@every_softmax
def test_objectness_equals_the_equations(name):
    logits, gt_classes = random_batch(K, K + 2)
    losses = plain(name, objectness=True)(logits, gt_classes)
    foreground = gt_classes < K
    expected = reference.cross_entropy(
        logits[foreground, :K].tolist(), gt_classes[foreground].tolist()
    )
    expected *= foreground.sum().item() / len(logits)
    assert losses["loss_cls"].item() == pytest.approx(expected)
    expected = reference.cross_entropy(logits[:, K:].tolist(), (~foreground).int().tolist())
    assert losses["loss_cls_objectness"].item() == pytest.approx(expected)


@every_softmax
def test_objectness_probabilities_and_predicted_classes(name):
    logits, _ = random_batch(K, K + 2)
    loss = build(name, objectness=True)
    probabilities = loss.probabilities(logits)
    for row, z in zip(probabilities.tolist(), logits.tolist()):
        foreground, background = reference.softmax(z[K:])
        expected = [p * foreground for p in reference.softmax(z[:K])] + [background]
        assert row == pytest.approx(expected)
    for predicted, z in zip(loss.predicted_classes(logits).tolist(), logits.tolist()):
        assert predicted == (z.index(max(z[:K])) if z[K] >= z[K + 1] else K)


@every_softmax
def test_without_background_there_is_a_logit_per_class(name):
    """Image classification, K classes only; objectness says nothing there."""
    logits, gt_classes = random_batch(K - 1, K)
    loss = plain(name, background=False, objectness=True)
    losses = loss(logits, gt_classes)
    assert list(losses) == ["loss_cls"] and loss.num_logits == K
    torch.testing.assert_close(losses["loss_cls"], F.cross_entropy(logits, gt_classes))
    torch.testing.assert_close(loss.probabilities(logits), logits.softmax(dim=1))
    assert loss.predicted_classes(logits).tolist() == logits.argmax(dim=1).tolist()


@every_softmax
def test_without_background_a_background_label_is_refused(name):
    logits, _ = random_batch(K, K, num_samples=2)
    with pytest.raises(ValueError, match=r"in \[0, 5\), as this loss is without background; got 5"):
        build(name, background=False)(logits, torch.tensor([0, K]))


def test_seesaw_without_background_equals_the_equations():
    counts = [1, 5, 20, 100, 3]
    loss = build("seesaw", background=False, q=1.0, counts="fixed", instance_counts=counts)
    assert_equal(loss, reference.seesaw, counts, 0.8, 1.0, 1e-2)


def test_softmax_eql_without_background_equals_the_equations():
    loss = build("softmax_eql", background=False, gamma=1.0)
    assert_equal(loss, reference.softmax_eql, [1, 1, 1, 0, 0], [[1] * K] * 20)
