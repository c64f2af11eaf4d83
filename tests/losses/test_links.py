import math

import pytest
import torch
from torch.autograd import gradcheck

from eql_seesaw.losses import build_loss
from eql_seesaw.losses.links import LINKS
from tests.losses import reference
from tests.losses.batches import random_batch

K = 4
IMAGE_COUNTS = [3, 100, 101, 5000]
RARITY = [1, 1, 0, 0]
GUMBEL = LINKS["gumbel"]
LOSSES = pytest.mark.parametrize("name", ["sigmoid_ce", "eql", "drop_loss"])


def build(name):
    return build_loss(name, K, image_counts=IMAGE_COUNTS, link="gumbel")


@pytest.mark.parametrize("name, rarity", [("sigmoid_ce", [0] * K), ("eql", RARITY)])
def test_equals_the_equation(name, rarity):
    logits, gt_classes = random_batch(K, K)
    logits = logits.clamp(min=-4)
    found = build(name)(logits, gt_classes)["loss_cls"].item()
    expected = reference.eql(
        logits.tolist(), gt_classes.tolist(), rarity, term=reference.gumbel_term
    )
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["negative", "positive"])
def test_derivatives_are_those_of_the_terms(name):
    """Over the bend at -4 too."""
    z = torch.linspace(-9.03, 30, 200, dtype=torch.float64, requires_grad=True)[:, None]
    term, derivative = (getattr(GUMBEL, x) for x in (name, f"{name}_derivative"))
    (expected,) = torch.autograd.grad(term(z, slice(None)).sum(), z)
    torch.testing.assert_close(derivative(z, slice(None)), expected, rtol=1e-8, atol=1e-12)
    assert gradcheck(lambda z: derivative(z, slice(None)), z)


def test_a_positive_far_below_still_has_a_gradient():
    z = torch.tensor([-4.0, -5.0, -14.0], requires_grad=True)
    terms = GUMBEL.positive(z, slice(None))
    terms.sum().backward()
    e4 = math.exp(4)
    assert terms.tolist() == pytest.approx([e4, 2 * e4, 11 * e4], rel=1e-6)
    assert z.grad[1:].tolist() == pytest.approx([-e4, -e4], rel=1e-6)


def test_negative_of_a_large_logit_is_the_logit():
    z = torch.tensor([20.0, 80.0, 1e4, 1e30])
    torch.testing.assert_close(GUMBEL.negative(z, slice(None)), z)
    assert GUMBEL.negative_derivative(z, slice(None)).tolist() == [pytest.approx(1)] * 4


@LOSSES
def test_probabilities_and_predicted_classes(name):
    """A class from a probability of a half, where the logit is 0.37."""
    loss = build(name)
    logits = torch.tensor([[0.36, -1.0, 0.0, 0.1], [0.37, 1.0, 0.5, -200.0]])
    expected = [[reference.gumbel(z) for z in row] + [0] for row in logits[:1].tolist()]
    assert loss.probabilities(logits)[:1].tolist() == [pytest.approx(row) for row in expected]
    assert loss.probabilities(logits)[1, 3] == 0
    assert loss.predicted_classes(logits).tolist() == [K, 1]
    assert loss.link == "gumbel"
    assert "link=gumbel" in repr(loss)
    assert "link" not in repr(build_loss(name, K, image_counts=IMAGE_COUNTS))


@LOSSES
def test_bias_of_the_released_code(name):
    classifier = torch.nn.Linear(3, K)
    build(name).init_classifier(classifier)
    torch.testing.assert_close(classifier.bias, torch.full((K,), -2.0))
    loss = build_loss(name, K, image_counts=IMAGE_COUNTS, link="gumbel", prior_probability=0.1)
    loss.init_classifier(classifier)
    torch.testing.assert_close(
        loss.probabilities(classifier.bias[None])[0, :K], torch.full((K,), 0.1)
    )


@LOSSES
@pytest.mark.parametrize("scale", [1e2, 1e30])
def test_huge_logits_stay_finite_twice(name, scale):
    """The gradient, and that of the gradient."""
    logits, gt_classes = random_batch(K, K, num_samples=30)
    logits = (scale * logits).detach().float().requires_grad_()
    value = build(name)(logits, gt_classes)["loss_cls"]
    (gradient,) = torch.autograd.grad(value, logits, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), logits)
    assert all(torch.isfinite(x).all() for x in (value, gradient, second))
