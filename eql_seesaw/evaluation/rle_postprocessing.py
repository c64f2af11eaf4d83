"""
Detectron2's post-processing for evaluation: masks become RLE, to the byte as Detectron2 pastes and
pycocotools encodes them, without being pasted first.
"""

from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.modeling import GeneralizedRCNN, detector_postprocess
from detectron2.structures import Instances, ROIMasks
from torch import nn
from torch.nn import functional as F

# The probability from which Detectron2 takes a pixel for one of the object.
MASK_THRESHOLD = 0.5


def rle_postprocess(results: Instances, output_height: int, output_width: int) -> Instances:
    """
    As Detectron2's ``detector_postprocess``, but instead of ``pred_masks`` of the size of the image
    the outcome has ``pred_rles``, the same masks as a list of compressed RLE.

    Args:
        results: raw detections of an R-CNN, with ``pred_masks``, (N, 1, M, M) or ``ROIMasks``, or
            without. As there, they may be changed.
        output_height, output_width: of the image.
    """
    fields = dict(results.get_fields())
    if "pred_masks" in fields:
        fields["mask_probs"] = fields.pop("pred_masks")  # a name that is left alone
    detections = detector_postprocess(
        Instances(results.image_size, **fields), output_height, output_width
    )
    if detections.has("mask_probs"):
        probs = detections.mask_probs
        probs = probs.tensor if isinstance(probs, ROIMasks) else probs[:, 0]
        boxes = detections.pred_boxes.tensor
        detections.pred_rles = paste_and_encode(probs, boxes, detections.image_size)
        detections.remove("mask_probs")
    return detections


class RLEModel(nn.Module):
    """A model in evaluation whose detections have ``pred_rles``, see :func:`rle_postprocess`."""

    def __init__(self, model: GeneralizedRCNN):
        super().__init__()
        self.model = model
        self.train(model.training)  # which evaluation restores

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """
        Args:
            batched_inputs: as for ``GeneralizedRCNN``.

        Returns:
            {"instances": Instances} for each image.
        """
        raw = self.model.inference(batched_inputs, do_postprocess=False)
        return [
            {
                "instances": rle_postprocess(
                    results,
                    image.get("height", results.image_size[0]),
                    image.get("width", results.image_size[1]),
                )
            }
            for image, results in zip(batched_inputs, raw, strict=True)
        ]


def with_rles(model: nn.Module) -> nn.Module:
    """
    The model for :class:`LongTailLVISEvaluator`, without pasted masks if it is Detectron2's
    ``GeneralizedRCNN``, on one GPU or in ``DistributedDataParallel``; else the model itself.
    """
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    # A class of its own may have a post-processing of its own.
    return RLEModel(inner) if type(inner) is GeneralizedRCNN else model


def paste_and_encode(
    mask_probs: torch.Tensor, boxes: torch.Tensor, image_size: tuple[int, int]
) -> list[dict[str, Any]]:
    """
    Detectron2's ``paste_masks_in_image``, then pycocotools' ``encode``, without masks of the size
    of the image in between. The outcome is the same to the byte.

    Args:
        mask_probs: (N, M, M) probabilities inside of the boxes.
        boxes: (N, 4) x0, y0, x1, y1 in pixels, within the image and not empty.
        image_size: (height, width).

    Returns:
        For each mask {"size": [height, width], "counts": str}, its compressed RLE.
    """
    height, width = image_size
    all_x = _sampling_points(boxes[:, 0], boxes[:, 2], width)
    all_y = _sampling_points(boxes[:, 1], boxes[:, 3], height)
    # As far around a box as paste_masks_in_image goes on a CPU; farther out no pixel is set.
    corners = boxes.cpu()
    first = (corners[:, :2].floor() - 1).clamp(min=0).long().tolist()
    end = (corners[:, 2:].ceil() + 1).minimum(corners.new_tensor([width, height])).long().tolist()
    rles = []
    for i, (probs, (left, top), (right, bottom)) in enumerate(zip(mask_probs, first, end)):
        x, y = all_x[i, left:right], all_y[i, top:bottom]
        shape = len(y), len(x)
        grid = torch.stack([x.expand(shape), y[:, None].expand(shape)], dim=2).to(probs.dtype)
        pasted = F.grid_sample(probs[None, None], grid[None], align_corners=False)[0, 0]
        # RLE runs down the columns of the image. Of those without the mask it needs the number, and
        # the next one, where a mask ends that reaches the image's lower edge.
        columns = np.zeros((min(right + 1, width) - left, height), dtype=bool)
        columns[: len(x), top:bottom] = (pasted >= MASK_THRESHOLD).cpu().numpy().T
        changes = np.flatnonzero(np.diff(columns.ravel(), prepend=False)) + left * height
        counts = np.diff(changes, prepend=0, append=height * width).astype(np.uint32)
        rle = {"size": [height, width], "counts": counts}
        rle = mask_util.frPyObjects(rle, height, width)
        rles.append({**rle, "counts": rle["counts"].decode()})
    return rles


def _sampling_points(low: torch.Tensor, high: torch.Tensor, number: int) -> torch.Tensor:
    """(N, number): along one axis, places of pixels' centers in masks from ``low`` to ``high``."""
    pixels = torch.arange(number, device=low.device, dtype=torch.float32)
    low, high = low[:, None], high[:, None]
    # Step by step as paste_masks_in_image computes it, or the rounding is another.
    return (pixels + 0.5 - low) / (high - low) * 2 - 1
