"""Weights of torchvision's ResNets under the names that Detectron2 has for them."""

import re
from typing import Any

# Images as these weights saw them; the stride is in another place than in Detectron2's own.
SETTINGS = (
    "torchvision's ResNets were trained with INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [123.675, 116.28, "
    "103.53], MODEL.PIXEL_STD [58.395, 57.12, 57.375] and MODEL.RESNETS.STRIDE_IN_1X1 False: set "
    "these"
)


def renamed_torchvision_resnet(weights: dict[str, Any]) -> dict[str, Any] | None:
    """
    Weights of ``torchvision.models.resnet50()`` or its like by the ends of their names in
    Detectron2's ResNets ("res2.0.conv1.norm.bias"), which it matches itself, without the classifier
    of ImageNet; None where they are of another model.
    """
    if not {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"} <= weights.keys():
        return None
    renamed = {}
    for key, tensor in weights.items():
        if key.startswith("fc.") or key.endswith("num_batches_tracked"):
            continue
        name = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", key)
        if name == key:  # before the first stage
            name = f"stem.{key}"
        name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        renamed[re.sub(r"bn([123])", r"conv\1.norm", name)] = tensor
    return renamed
