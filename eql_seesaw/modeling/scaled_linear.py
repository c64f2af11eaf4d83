"""
Classifiers with a learnable scale per class: learnable weight scaling (LWS) of
https://arxiv.org/abs/1910.09217, section 4.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ..normed_layers import NormedLinear


class ScaledLinear(nn.Linear):
    r"""
    Linear layer whose weight vectors have a scale each, :math:`z_j = f_j w_j^T x + b_j`, as in the
    paper; the authors' code scales the bias as well.

    Args:
        in_features, out_features: as for ``nn.Linear``; there is always a bias.

    Shapes: (R, in_features) to (R, out_features).

    Attributes:
        scale (Parameter): f, (out_features,), ones to begin with.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features)
        self.scale = nn.Parameter(torch.ones(out_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.scale[:, None] * self.weight, self.bias)


class ScaledNormedLinear(NormedLinear):
    """
    :class:`~eql_seesaw.normed_layers.NormedLinear` whose normalised weight vectors have a
    scale each; arguments as there, ``scale`` as in :class:`ScaledLinear`.
    """

    def __init__(self, in_features: int, out_features: int, temperature: float = 20.0):
        super().__init__(in_features, out_features, temperature)
        self.scale = nn.Parameter(torch.ones(out_features))

    def weight_vectors(self) -> torch.Tensor:
        return self.scale[:, None] * super().weight_vectors()
