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
