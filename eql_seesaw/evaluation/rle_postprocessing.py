"""
Detectron2's post-processing for evaluation: masks become RLE, to the byte as Detectron2 pastes and
pycocotools encodes them, without being pasted first.
"""

from collections.abc import Sequence
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
# For grid_sample a mask reaches from -1 to 1.
OUTSIDE_OF_MASK = 2.0
# A CPU works on one mask after the other, a GPU on so many pixels at a time.
PIXELS_AT_A_TIME = 2**24


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
        boxes: (N, 4) x0, y0, x1, y1 in pixels, not empty.
        image_size: (height, width).

    Returns:
        For each mask {"size": [height, width], "counts": str}, its compressed RLE.
    """
    height, width = image_size
    if len(boxes) == 0:
        return []
    # As far around a box as paste_masks_in_image goes on a CPU; farther out no pixel is set.
    first = (boxes[:, :2].floor() - 1).clamp(min=0)
    end = (boxes[:, 2:].ceil() + 1).minimum(boxes.new_tensor([width, height]))
    sides = (end - first).long().clamp(min=1)
    order = sides.prod(dim=1).argsort()  # similar sizes together
    mask_probs, boxes, first, sides = (t[order] for t in (mask_probs, boxes, first, sides))
    x, y = (
        _sampling_points(boxes[:, axis::2], first[:, axis], int(sides[:, axis].max()), size)
        for axis, size in ((0, width), (1, height))
    )
    indices, (left, top) = order.cpu().numpy(), first.T.cpu().numpy().astype(np.int64)
    first = indices * (height * width + 1) + left * height + top
    sizes = sides.tolist()
    edges = []
    for part in _parts(len(boxes), x.shape[1] * y.shape[1], boxes.device):
        w, h = (max(side) for side in zip(*sizes[part]))
        pasted = _paste(mask_probs[part], x[part, :w], y[part, :h])
        edges.append(_edges(pasted, first[part], height))
    return _encode(edges, len(boxes), height, width)


def _parts(num_masks: int, num_pixels: int, device: torch.device) -> list[slice]:
    """Masks to work on at a time; ``num_pixels`` of the largest one."""
    step = 1 if device.type == "cpu" else max(PIXELS_AT_A_TIME // num_pixels, 1)
    return [slice(i, i + step) for i in range(0, num_masks, step)]


def _sampling_points(
    bounds: torch.Tensor, first: torch.Tensor, number: int, size: int
) -> torch.Tensor:
    """
    For each box (N, number) coordinates of pixels' centers in its mask, along one axis.

    Args:
        bounds: (N, 2) of the boxes.
        first: (N,) the pixel to begin with.
        number: of pixels.
        size: of the image.
    """
    start, end = bounds.split(1, dim=1)
    pixels = first[:, None].float() + torch.arange(number, device=bounds.device)
    # Step by step as paste_masks_in_image computes it, or the rounding is another.
    points = (pixels + 0.5 - start) / (end - start) * 2 - 1
    return points.where(pixels < size, points.new_tensor(OUTSIDE_OF_MASK))


def _paste(mask_probs: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(n, h, w) bool: (n, M, M) masks at (n, w) and (n, h) coordinates."""
    shape = len(x), y.shape[1], x.shape[1]
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=3)
    grid = grid.to(mask_probs.dtype)
    probs = F.grid_sample(mask_probs[:, None], grid, align_corners=False)[:, 0]
    return probs >= MASK_THRESHOLD


def _edges(masks: torch.Tensor, first: np.ndarray, height: int) -> np.ndarray:
    """
    Places where columns of masks go from 0 to 1 or back, pixels above and below being 0.

    Args:
        masks: (n, h, w) bool, a part of each image that holds all of the mask.
        first: (n,) number of the part's upper left pixel, counted down the columns.
        height: of the images.

    Returns:
        Unordered numbers of pixels that differ from the one above them.
    """
    n, h, w = masks.shape
    differs = masks.new_empty(n, h + 1, w)
    differs[:, 0], differs[:, h] = masks[:, 0], masks[:, -1]
    torch.ne(masks[:, 1:], masks[:, :-1], out=differs[:, 1:h])
    if differs.device.type == "cpu":
        flat = np.flatnonzero(differs.numpy())  # many times faster than PyTorch's
    else:
        flat = differs.flatten().nonzero().squeeze(1).cpu().numpy()
    index, y, x = np.unravel_index(flat, differs.shape)
    return first[index] + x * height + y


def _encode(
    edges: Sequence[np.ndarray], num_masks: int, height: int, width: int
) -> list[dict[str, Any]]:
    """
    Args:
        edges: of all masks, as :func:`_edges` gives them, pixel 0 of mask i being i * (H * W + 1).
    """
    first = np.arange(num_masks) * (height * width + 1)
    end = first + height * width
    pixels, number = np.unique(np.concatenate(edges), return_counts=True)
    # A run that goes on in the next column has an end and a beginning there.
    bounds = np.sort(np.concatenate([pixels[number == 1], first, end]))
    counts = np.diff(bounds).astype(np.uint32)
    runs = zip(np.searchsorted(bounds, first), np.searchsorted(bounds, end))
    rles = mask_util.frPyObjects(
        [{"size": [height, width], "counts": counts[i:j]} for i, j in runs], height, width
    )
    return [{**rle, "counts": rle["counts"].decode()} for rle in rles]
