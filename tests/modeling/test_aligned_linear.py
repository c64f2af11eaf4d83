import math

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from eql_seesaw.losses import build_loss
from eql_seesaw.modeling import NormedLinear
from eql_seesaw.modeling.aligned_linear import AlignedLinear, AlignedNormedLinear

K = 3
PAIRS = [
    (lambda: nn.Linear(5, K + 1), lambda: AlignedLinear(5, K + 1, K)),
    (lambda: NormedLinear(5, K + 1, 7.0), lambda: AlignedNormedLinear(5, K + 1, 7.0, K)),
]
both = pytest.mark.parametrize("plain, aligned", PAIRS, ids=["linear", "normed"])


def loaded(plain, aligned):
    plain, aligned = plain().double(), aligned().double()
    nn.init.normal_(plain.bias)
    incompatible = aligned.load_state_dict(plain.state_dict(), strict=False)
    assert all(key.startswith("alignment.") for key in incompatible.missing_keys)
    return plain, aligned, torch.randn(7, 5, dtype=torch.float64)


@both
def test_starts_as_the_classifier_was(plain, aligned):
    plain, aligned, x = loaded(plain, aligned)
    assert torch.equal(aligned(x), plain(x)) and torch.equal(aligned(x[:0]), plain(x[:0]))


@both
def test_equals_the_equation(plain, aligned):
    """z' = c (s z + b) + (1 - c) z of the classes; background stays."""
    plain, aligned, x = loaded(plain, aligned)
    scale, shift, weight = [2.0, 0.0, -0.5], [0.1, -3.0, 1.0], [1.0, -2.0, 0.5, 0.0, 3.0]
    with torch.no_grad():
        aligned.alignment.scale.copy_(torch.tensor(scale, dtype=x.dtype))
        aligned.alignment.shift.copy_(torch.tensor(shift, dtype=x.dtype))
        aligned.alignment.confidence.weight.copy_(torch.tensor([weight]))
        aligned.alignment.confidence.bias.fill_(0.25)
    rows = zip(aligned(x).tolist(), plain(x).tolist(), x.tolist(), strict=True)
    for found, logits, features in rows:
        c = 1 / (1 + math.exp(-0.25 - sum(v * f for v, f in zip(weight, features))))
        expected = [c * (s * z + b) + (1 - c) * z for s, b, z in zip(scale, shift, logits)]
        assert found == pytest.approx([*expected, logits[K]], rel=1e-12)
    alignment, logits = aligned.alignment, plain(x).detach().requires_grad_()
    assert gradcheck(alignment, (logits, x.requires_grad_()))
    assert gradgradcheck(alignment, (logits, x))


@pytest.mark.slow
@both
def test_compiled_it_learns_the_same(plain, aligned):
    """DisAlign as a whole, its loss too; also of another number of samples, and of none."""
    loss = build_loss("softmax_ce", K, reweighting=0.8, instance_counts=[1, 9, 400])
    classifier = aligned()
    for parameter in classifier.alignment.parameters():
        nn.init.normal_(parameter)

    def step(x, gt_classes):
        return loss(classifier(x), gt_classes)["loss_cls"]

    torch.compiler.reset()
    compiled = torch.compile(step, backend="aot_eager")  # needs no C++ compiler
    for num_samples in (8, 5, 0):
        x, gt_classes = torch.randn(num_samples, 5), torch.arange(num_samples) % (K + 1)
        values = [function(x, gt_classes) for function in (step, compiled)]
        torch.testing.assert_close(*values)
        parameters = list(classifier.parameters())
        torch.testing.assert_close(*(torch.autograd.grad(value, parameters) for value in values))
