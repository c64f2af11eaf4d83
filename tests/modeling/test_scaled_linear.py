import pytest
import torch
from torch import nn

from eql_seesaw.modeling import NormedLinear, ScaledLinear, ScaledNormedLinear

PAIRS = [(nn.Linear, ScaledLinear), (NormedLinear, ScaledNormedLinear)]


@pytest.mark.parametrize("plain, scaled", PAIRS)
def test_scale_of_one_changes_nothing(plain, scaled):
    plain, scaled, x = plain(5, 3), scaled(5, 3), torch.randn(7, 5)
    incompatible = scaled.load_state_dict(plain.state_dict(), strict=False)
    assert incompatible.missing_keys == ["scale"] and not incompatible.unexpected_keys
    assert torch.equal(scaled(x), plain(x))


@pytest.mark.parametrize("plain, scaled", PAIRS)
def test_scale_multiplies_the_weight_vectors_and_not_the_bias(plain, scaled):
    plain, scaled, x = plain(5, 3), scaled(5, 3), torch.randn(7, 5)
    nn.init.normal_(plain.bias)
    scaled.load_state_dict(plain.state_dict(), strict=False)
    scale = torch.tensor([2.0, 0.0, -0.5])
    with torch.no_grad():
        scaled.scale.copy_(scale)
    expected = scale * (plain(x) - plain.bias) + plain.bias
    torch.testing.assert_close(scaled(x), expected)


def test_by_hand():
    layer = ScaledLinear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        layer.bias.copy_(torch.tensor([10.0, 20.0]))
        layer.scale.copy_(torch.tensor([2.0, 0.5]))
    assert layer(torch.tensor([[1.0, 1.0]])).tolist() == [[16.0, 23.5]]


def test_normed_by_hand():
    layer = ScaledNormedLinear(2, 1, temperature=10.0)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4.0]]))
        layer.bias.fill_(1.0)
        layer.scale.fill_(3.0)
    # 3 * 10 * cos + 1, with cos = 0.6 whatever the lengths.
    torch.testing.assert_close(layer(torch.tensor([[7.0, 0.0]])), torch.tensor([[19.0]]))


@pytest.mark.parametrize("layer", [ScaledLinear, ScaledNormedLinear])
def test_gradient_reaches_the_scale(layer):
    layer = layer(4, 3).requires_grad_(False)
    layer.scale.requires_grad_(True)
    layer(torch.randn(2, 4)).sum().backward()
    assert layer.scale.grad.abs().min() > 0
    assert layer.weight.grad is None and layer.bias.grad is None
