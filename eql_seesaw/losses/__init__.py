"""
Classification losses for long-tailed data. They need torch only, and serve detectors and image
classifiers alike: see :class:`ClassificationLoss` for the interface.
"""

import inspect
from typing import Any

from .acsl import AdaptiveClassSuppressionLoss
from .bags import BalancedGroupSoftmax
from .balanced_sigmoid import BalancedSigmoidLoss
from .balanced_softmax import BalancedSoftmaxLoss
from .base import ClassificationLoss
from .class_balanced import ClassBalancedLoss
from .drop_loss import DropLoss
from .ecm import EffectiveClassMarginLoss
from .eql import EqualizationLoss
from .eql_v2 import EqualizationLossV2
from .equalized_focal import EqualizedFocalLoss
from .equilibrium import EquilibriumLoss
from .fcbl import ForegroundClassificationBalanceLoss
from .federated import FederatedLoss
from .focal import FocalLoss
from .ldam import LDAMLoss
from .logit_adjustment import LogitAdjustmentLoss
from .pcb import PairwiseClassBalanceLoss
from .seesaw import SeesawLoss
from .sigmoid_ce import SigmoidCrossEntropy
from .softmax_ce import SoftmaxCrossEntropy
from .softmax_eql import SoftmaxEqualizationLoss
from .softmax_eql_v2 import SoftmaxEqualizationLossV2
from .step_statistics import summed_together

# Short name, as typed in MODEL.ROI_BOX_HEAD.CLS_LOSS, to loss. A new loss adds its line here.
LOSSES: dict[str, type[ClassificationLoss]] = {
    "softmax_ce": SoftmaxCrossEntropy,
    "sigmoid_ce": SigmoidCrossEntropy,
    "eql": EqualizationLoss,
    "softmax_eql": SoftmaxEqualizationLoss,
    "softmax_eql_v2": SoftmaxEqualizationLossV2,
    "seesaw": SeesawLoss,
    "focal": FocalLoss,
    "class_balanced": ClassBalancedLoss,
    "bags": BalancedGroupSoftmax,
    "eql_v2": EqualizationLossV2,
    "equalized_focal": EqualizedFocalLoss,
    "federated": FederatedLoss,
    "balanced_softmax": BalancedSoftmaxLoss,
    "balanced_sigmoid": BalancedSigmoidLoss,
    "logit_adjustment": LogitAdjustmentLoss,
    "ldam": LDAMLoss,
    "drop_loss": DropLoss,
    "acsl": AdaptiveClassSuppressionLoss,
    "ecm": EffectiveClassMarginLoss,
    "equilibrium": EquilibriumLoss,
    "fcbl": ForegroundClassificationBalanceLoss,
    "pcb": PairwiseClassBalanceLoss,
}

# Arguments that describe the training set, or the training, rather than the loss.
STATISTICS = ("image_counts", "instance_counts", "num_images", "num_steps")

__all__ = [
    "LOSSES",
    "ClassificationLoss",
    "build_loss",
    "summed_together",
    *(loss.__name__ for loss in LOSSES.values()),
]


def build_loss(name: str, num_classes: int, **arguments: Any) -> ClassificationLoss:
    """
    Args:
        name: a key of :data:`LOSSES`.
        num_classes: K, the number of foreground classes.
        arguments: the loss's own arguments. Class statistics (:data:`STATISTICS`) may always be
            given; a loss that does not use them does without, so that one call serves every name.

    Raises:
        ValueError: an unknown name or argument, or a value that the loss refuses.
    """
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}; known losses: {', '.join(LOSSES)}")
    accepted = list(inspect.signature(LOSSES[name]).parameters)
    unknown = [x for x in arguments if x not in accepted and x not in STATISTICS]
    if unknown:
        raise ValueError(
            f"loss {name!r} takes no argument {unknown[0]!r}; it takes {', '.join(accepted)}"
        )
    arguments = {key: value for key, value in arguments.items() if key in accepted}
    return LOSSES[name](num_classes, **arguments)
