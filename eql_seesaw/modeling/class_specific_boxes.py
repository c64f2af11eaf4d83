"""Class-specific box regression, computed for the classes that are asked for."""

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import nn
from torch.nn import functional as F

# Deltas below this decode to finite boxes of any image.
LARGEST_DELTA = 1e30


class ClassSpecificDeltas:
    """
    Box deltas of R proposals and K classes before they are computed: in training only those of
    foreground proposals' own class are needed.
    """

    def __init__(self, features: torch.Tensor, layer: nn.Linear, num_classes: int):
        """
        Args:
            features: (R, D).
            layer: D to K * 4.
            num_classes: K.
        """
        self.features = features
        self.layer = layer
        self.num_classes = num_classes

    def of_all_classes(self) -> torch.Tensor:
        """(R, K * 4), as Detectron2 has them."""
        return self.layer(self.features)

    def of_own_classes(self, classes: torch.Tensor) -> torch.Tensor:
        """
        Args:
            classes: (R,) int64.

        Returns:
            (R, 4) deltas of each proposal's class, zeros where that is not in [0, K).
        """
        rows = ((classes >= 0) & (classes < self.num_classes)).nonzero().squeeze(1)
        classes = classes[rows]
        # (K, 4 * D) and (K, 4). The gradient of an embedding is deterministic.
        weight = F.embedding(classes, self.layer.weight.view(self.num_classes, -1))
        bias = F.embedding(classes, self.layer.bias.view(self.num_classes, -1))
        weight = weight.unflatten(1, (bias.shape[1], -1))
        deltas = torch.baddbmm(bias[..., None], weight, self.features[rows][..., None]).squeeze(2)
        return deltas.new_zeros(len(self.features), deltas.shape[1]).index_copy(0, rows, deltas)


class EncodedBoxes:
    """Boxes of R proposals and K classes as deltas; those that are looked at are decoded."""

    def __init__(
        self, deltas: torch.Tensor, proposal_boxes: torch.Tensor, transform: Box2BoxTransform
    ):
        """
        Args:
            deltas: (R, K * 4).
            proposal_boxes: (R, 4).
            transform: of the box predictor.
        """
        self.deltas = deltas
        self.proposal_boxes = proposal_boxes
        self.transform = transform

    def are_finite(self) -> torch.Tensor:
        """Bool scalar, False where any box might not be finite."""
        # None of them is larger than their sum.
        is_bounded = torch.linalg.vector_norm(self.deltas, ord=1) < LARGEST_DELTA
        return is_bounded & self.proposal_boxes.isfinite().all()

    def decode_all(self) -> torch.Tensor:
        """(R, K * 4) boxes x0, y0, x1, y1."""
        return self.transform.apply_deltas(self.deltas, self.proposal_boxes)

    def decode(self, rows: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """(N, 4) boxes of N rows and classes; the same as if all had been decoded, to the bit."""
        box_dim = self.proposal_boxes.shape[1]
        deltas = self.deltas.unflatten(1, (-1, box_dim))[rows, classes]
        return self.transform.apply_deltas(deltas, self.proposal_boxes[rows])
