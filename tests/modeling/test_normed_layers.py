import pytest
import torch

from eql_seesaw.modeling import NormedConv2d, NormedLinear


def layers():
    linear = NormedLinear(5, 3)
    conv = NormedConv2d(5, 3, 1)
    with torch.no_grad():
        linear.bias.copy_(torch.tensor([0.5, -1.0, 2.0]))
        conv.weight.copy_(linear.weight[:, :, None, None])
        conv.bias.copy_(linear.bias)
    return {"linear": (linear, torch.randn(7, 5)), "conv": (conv, torch.randn(2, 5, 4, 3))}


each_layer = pytest.mark.parametrize("kind", ["linear", "conv"])


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_linear_equals_the_formula(temperature):
    layer, x = NormedLinear(5, 3, temperature), torch.randn(7, 5)
    z = layer(x)
    for r in range(7):
        for j in range(3):
            w = layer.weight[j]
            cosine = (w * x[r]).sum() / (w.square().sum().sqrt() * x[r].square().sum().sqrt())
            torch.testing.assert_close(z[r, j], temperature * cosine + layer.bias[j])


def test_default_temperature_is_the_papers():
    assert NormedLinear(2, 2).temperature == NormedConv2d(2, 2, 1).temperature == 20


@each_layer
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_length_of_input_and_weight_does_not_matter(kind, scale):
    layer, x = layers()[kind]
    expected = layer(x)
    torch.testing.assert_close(layer(scale * x), expected)
    with torch.no_grad():
        layer.weight.mul_(scale)
    torch.testing.assert_close(layer(x), expected)


@each_layer
def test_zero_input_gives_the_bias_and_finite_gradients(kind):
    layer, x = layers()[kind]
    x = torch.zeros_like(x).requires_grad_()
    z = layer(x)
    assert (z.movedim(1, -1) == layer.bias).all()
    z.sum().backward()
    for tensor in (x, layer.weight, layer.bias):
        assert torch.isfinite(tensor.grad).all()


@each_layer
def test_empty_input(kind):
    layer, x = layers()[kind]
    z = layer(x[:0])
    assert z.shape == (0, 3, *x.shape[2:])
    z.sum().backward()
    assert (layer.weight.grad == 0).all()


@each_layer
def test_gradient(kind):
    layer, x = layers()[kind]
    assert torch.autograd.gradcheck(layer.double(), x[:2].double().requires_grad_())


def test_conv_is_the_linear_layer_at_each_pixel():
    (linear, _), (conv, x) = layers().values()
    expected = linear(x.movedim(1, -1).flatten(0, 2)).reshape(2, 4, 3, 3).movedim(-1, 1)
    torch.testing.assert_close(conv(x), expected)
