"""Layers whose output is a scaled cosine similarity."""

import torch
from torch import nn
from torch.nn import functional as F

# Vectors shorter than this are not scaled up to length 1.
EPS = 1e-6


class NormedLinear(nn.Linear):
    r"""
    Linear layer on L2-normalised weight and input, :math:`z = \tau \tilde W^T \tilde x + b`:
    the normalised linear activation of Seesaw loss (https://arxiv.org/abs/2008.10032).

    Args:
        in_features, out_features: as for ``nn.Linear``; there is always a bias.
        temperature: tau.

    Shapes: (R, in_features) to (R, out_features).
    """

    def __init__(self, in_features: int, out_features: int, temperature: float = 20.0):
        super().__init__(in_features, out_features)
        self.temperature = temperature

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.temperature * F.normalize(x, dim=1, eps=EPS)
        return F.linear(x, self.weight_vectors(), self.bias)

    def weight_vectors(self) -> torch.Tensor:
        """(out_features, in_features), the normalised weight."""
        return F.normalize(self.weight, dim=1, eps=EPS)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, temperature={self.temperature}"


class NormedConv2d(nn.Conv2d):
    """
    Convolution on L2-normalised input channels and filters, scaled by a temperature; with a 1x1
    kernel the mask predictor of Seesaw's "Norm Mask" (https://arxiv.org/abs/2008.10032).

    Args:
        in_channels, out_channels, kernel_size: as for ``nn.Conv2d``; there is always a bias.
        temperature: tau.

    Shapes: (R, in_channels, H, W) to (R, out_channels, H', W').
    """

    bias: torch.Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, temperature: float = 20.0
    ):
        super().__init__(in_channels, out_channels, kernel_size)
        self.temperature = temperature

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, weight = self.normalised(x, self.weight)
        return self._conv_forward(x, weight, self.bias)

    def normalised(
        self, x: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Input and weight, or some of its rows, whose product is the scaled cosine similarity."""
        x = self.temperature * F.normalize(x, dim=1, eps=EPS)
        return x, F.normalize(weight, dim=1, eps=EPS)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, temperature={self.temperature}"
