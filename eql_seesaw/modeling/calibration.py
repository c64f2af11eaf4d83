"""Calibration of a trained classifier at test time, against its bias towards frequent classes."""

import torch
from detectron2.config import CfgNode
from torch import nn
from torch.nn import functional as F

from ..config import calibration_strength
from ..data.class_statistics import ClassStatistics
from ..losses import ClassificationLoss
from ..losses.base import float32_or_better
from ..normed_layers import EPS


class Calibration(nn.Module):
    r"""
    Probabilities from logits in place of the loss's own. Background, the last logit of a softmax,
    is left alone: its "frequency" is that of the sampler. For K classes, logits z, image counts n
    (a class without images counts as one with one), frequencies f = n / annotated images:

    * ``norcal``, https://arxiv.org/abs/2107.02170: softmax of :math:`z_j - \gamma \log n_j`;
    * ``logit_adjustment``, https://arxiv.org/abs/2007.07314, with priors over the classes alone:
      softmax of :math:`z_j - \tau \log(n_j / \sum_k n_k)`;
    * ``fracal``, https://arxiv.org/abs/2410.11774, with fractal dimensions :math:`\Phi`: softmax of
      :math:`z_j - \log_{10}(K f_j) - \lambda \log \Phi_j`; as there, the frequencies have another
      logarithm than the softmax. With sigmoids, :math:`\sigma(z_j) \, \sigma(z_j - \log_{10}(K f_j)
      - \log_{10}(K \Phi_j^\lambda / \sum_k \Phi_k^\lambda))`;
    * ``tau_norm``, https://arxiv.org/abs/1910.09217, section 4.3: softmax of
      :math:`(\bar w / \|w_j\|)^\tau w_j^T x + b_j`. Without background, which the paper does not
      know, :math:`\bar w` would change nothing; it is the geometric mean of the norms, so that the
      classes stay where they are beside background.

    Args:
        method: one of these.
        loss: that the classifier was trained with.
        strength: gamma, tau, lambda or tau; None for the paper's, if it has one.
        statistics: of the training set; with its fractal dimensions for ``fracal``; None for
            ``tau_norm``.

    Raises:
        ValueError: as :func:`~eql_seesaw.config.calibration_strength`; or statistics are missing.
    """

    image_counts: torch.Tensor
    fractal_dimensions: torch.Tensor

    def __init__(
        self,
        method: str,
        loss: ClassificationLoss,
        strength: float | None = None,
        statistics: ClassStatistics | None = None,
    ):
        super().__init__()
        self.method = method
        self.strength = calibration_strength(method, strength, loss)
        self.num_classes = loss.num_classes
        self.is_sigmoid = loss.link == "sigmoid"
        if method == "tau_norm":
            return
        if statistics is None or (method == "fracal" and statistics.fractal_dimensions is None):
            raise ValueError(
                f"TEST.CALIBRATION.METHOD {method} needs the statistics of the training set: name "
                "it in DATASETS.TRAIN, or a file of them in DATASETS.CLASS_STATISTICS"
            )
        self.num_images = statistics.num_images
        counts = torch.as_tensor(statistics.image_counts, dtype=torch.float64).clamp(min=1)
        # Not in checkpoints: they follow from the training set.
        self.register_buffer("image_counts", counts, persistent=False)
        if method == "fracal":
            dimensions = torch.as_tensor(statistics.fractal_dimensions, dtype=torch.float64)
            self.register_buffer("fractal_dimensions", dimensions, persistent=False)

    def forward(self, logits: torch.Tensor, classifier: nn.Linear) -> torch.Tensor:
        """
        Args:
            logits: (R, L), any floating dtype.
            classifier: the layer that computed them.

        Returns:
            (R, K + 1) class probabilities, background last; float32 or better.
        """
        logits = float32_or_better(logits)
        if self.method == "tau_norm":
            bias = float32_or_better(classifier.bias)
            return torch.addcmul(bias, logits - bias, self.scales(classifier)).softmax(dim=1)
        offsets = self.offsets().to(logits.dtype)
        if self.is_sigmoid:
            return F.pad(logits.sigmoid() * (logits + offsets).sigmoid(), (0, 1))
        return (logits + F.pad(offsets, (0, logits.shape[1] - self.num_classes))).softmax(dim=1)

    def offsets(self) -> torch.Tensor:
        """Numbers to add to the logits of the classes, float64 (K,)."""
        n = self.image_counts
        if self.method == "norcal":
            return -self.strength * n.log()
        if self.method == "logit_adjustment":
            return -self.strength * (n / n.sum()).log()
        offsets = -(self.num_classes * n / self.num_images).log10()
        if not self.is_sigmoid:
            return offsets - self.strength * self.fractal_dimensions.log()
        weights = self.fractal_dimensions**self.strength
        return offsets - (self.num_classes * weights / weights.sum()).log10()

    def scales(self, classifier: nn.Linear) -> torch.Tensor:
        """Factors of the weight vectors, (L,); 1 for background."""
        norms = float32_or_better(classifier.weight[: self.num_classes]).norm(dim=1)
        log_norms = norms.clamp(min=EPS).log()
        scales = (self.strength * (log_norms.mean() - log_norms)).exp()
        return F.pad(scales, (0, len(classifier.weight) - self.num_classes), value=1.0)

    def extra_repr(self) -> str:
        return f"{self.method}, strength={self.strength:g}"


def build_calibration(
    cfg: CfgNode, loss: ClassificationLoss, statistics: ClassStatistics | None
) -> Calibration | None:
    """The calibration of TEST.CALIBRATION; None for none."""
    method, strength = cfg.TEST.CALIBRATION.METHOD, cfg.TEST.CALIBRATION.STRENGTH
    return None if method == "none" else Calibration(method, loss, strength, statistics)
