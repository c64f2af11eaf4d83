"""
Classifiers whose decisions are aligned after their training: the adaptive calibration of DisAlign,
https://arxiv.org/abs/2103.16370, as in its released code.
"""

import torch
from torch import nn

from ..normed_layers import NormedLinear


class Alignment(nn.Module):
    r"""
    A scale and a shift of each class's logit, taken as far as an input asks for it:

    .. math:: z'_j = c (s_j z_j + b_j) + (1 - c) z_j, \qquad c = \mathrm{sigmoid}(v^T x + d)

    Logits after those of the K classes, as of background, stay as they are; to begin with all do.

    Shapes: logits (R, L) and x (R, in_features) to (R, L).

    Attributes:
        scale, shift (Parameter): s and b, (K,).
        confidence (nn.Linear): v and d.
    """

    def __init__(self, in_features: int, num_classes: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(num_classes))
        self.shift = nn.Parameter(torch.zeros(num_classes))
        self.confidence = nn.Linear(in_features, 1)
        nn.init.normal_(self.confidence.weight, std=0.01)
        nn.init.zeros_(self.confidence.bias)

    def forward(self, logits: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        z, others = logits.tensor_split([len(self.scale)], dim=1)
        change = (self.scale - 1) * z + self.shift
        return torch.cat([z + self.confidence(x).sigmoid() * change, others], dim=1)


class AlignedLinear(nn.Linear):
    """``nn.Linear`` with an :class:`Alignment` of its outputs."""

    def __init__(self, in_features: int, out_features: int, num_classes: int):
        super().__init__(in_features, out_features)
        self.alignment = Alignment(in_features, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.alignment(super().forward(x), x)


class AlignedNormedLinear(NormedLinear):
    """:class:`~eql_seesaw.normed_layers.NormedLinear` with an :class:`Alignment`."""

    def __init__(self, in_features: int, out_features: int, temperature: float, num_classes: int):
        super().__init__(in_features, out_features, temperature)
        self.alignment = Alignment(in_features, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.alignment(super().forward(x), x)
