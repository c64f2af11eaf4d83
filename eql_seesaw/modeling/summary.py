"""The choices that decide a model's results, in a few lines for the start of a log."""

from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from torch import nn

from ..data.frequency_groups import GROUP_NAMES
from ..normed_layers import NormedConv2d, NormedLinear
from .fast_rcnn import LongTailFastRCNNOutputLayers


def model_summary(model: nn.Module) -> str:
    """
    Args:
        model: a Detectron2 model, or any module that holds box predictors and mask heads.

    Returns:
        One line per box predictor (cascade stages have one each) and mask head: classes, logits,
        loss, protected classes, normalised layers, class-agnostic or class-specific outputs.
    """
    lines = []
    for name, module in model.named_modules():
        if isinstance(module, LongTailFastRCNNOutputLayers):
            lines.append(f"{name}: {_box_predictor(module)}")
        elif isinstance(module, BaseMaskRCNNHead):
            lines.append(f"{name}: {_mask_head(module)}")
    return "\n".join(lines)


def protection_doubts(model: nn.Module) -> list[str]:
    """
    A line for each loss (once for all stages of a cascade) that protects all classes, or none, and
    so does nothing about a long tail; from a model with the groups of the classes.
    """
    lines: dict[str, None] = {}
    for module in model.modules():
        if isinstance(module, LongTailFastRCNNOutputLayers) and module.class_groups is not None:
            loss, protected = module.loss, module.loss.protected_classes
            if protected is not None and bool(protected.all()) == bool(protected.any()):
                which = f"all {loss.num_classes}" if protected.any() else "none of the"
                lines[
                    f"{type(loss).__name__} protects {which} classes from each other, so it treats "
                    "them all alike; look at its MAX_IMAGE_COUNT or LAMBDA and at the images of "
                    "each class"
                ] = None
    return list(lines)


def _box_predictor(predictor: LongTailFastRCNNOutputLayers) -> str:
    loss, classifier = predictor.loss, predictor.cls_score
    parts = [
        f"{loss.num_classes} classes, {loss.num_logits} logits",
        f"loss {type(loss).__name__}({loss.extra_repr()})",
    ]
    if loss.protected_classes is not None and predictor.class_groups is not None:
        protected = [
            group
            for group, is_protected in zip(predictor.class_groups, loss.protected_classes.tolist())
            if is_protected
        ]
        parts.append(
            "protected: "
            + ", ".join(
                f"{protected.count(key)} of {list(predictor.class_groups).count(key)} {name}"
                for key, name in GROUP_NAMES.items()
            )
        )
    if isinstance(classifier, NormedLinear):
        parts.append(f"normalised classifier, temperature {classifier.temperature:g}")
    else:
        parts.append("linear classifier")
    if hasattr(classifier, "scale"):
        parts.append("learnable scale per logit")
    if hasattr(classifier, "alignment"):
        parts.append("learnable alignment of the classes")
    parts.append(_per_class("boxes", not predictor.has_class_specific_boxes))
    if predictor.calibration is not None:
        parts.append(f"calibrated at test time by {predictor.calibration.extra_repr()}")
    return "; ".join(parts)


def _mask_head(head: BaseMaskRCNNHead) -> str:
    parts = [type(head).__name__]
    predictor = getattr(head, "predictor", None)
    if predictor is not None:
        parts.append(_per_class("masks", predictor.out_channels == 1))
    if isinstance(predictor, NormedConv2d):
        parts.append(f"normalised predictor, temperature {predictor.temperature:g}")
    return "; ".join(parts)


def _per_class(what: str, is_agnostic: bool) -> str:
    return f"class-agnostic {what}" if is_agnostic else f"class-specific {what}"
