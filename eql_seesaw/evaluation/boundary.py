"""Boundaries of masks, and how much they overlap."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hotcoco import mask as hotcoco_mask

# Width of a boundary in diagonals of the image: what the paper's authors and LVIS's 2021 challenge
# take (which, unlike this, has no limit per image). Numbers of different widths cannot be compared.
DILATION_RATIO = 0.02


def boundary_ious(
    masks: Sequence[dict[str, Any]],
    gt_masks: Sequence[dict[str, Any]],
    ious: np.ndarray,
    pairs: np.ndarray,
    image_size: tuple[int, int],
) -> np.ndarray:
    """
    IoUs for Boundary AP (Cheng et al., arXiv 2103.16562): the smaller of the IoU of two masks and
    the IoU of their boundaries, the pixels of a mask within ``DILATION_RATIO`` diagonals of its
    outside. What is outside of the image is outside of the mask.

    Args:
        masks, gt_masks: D and G masks of an image, as compressed RLE.
        ious: (D, G) of the masks.
        pairs: (P, 2), those to look at; others keep the IoU of the masks.
        image_size: (height, width).

    Returns:
        (D, G).
    """
    height, width = image_size
    distance = max(int(round(DILATION_RATIO * np.sqrt(height**2 + width**2))), 1)
    boundaries = {d: _boundary(masks[d], distance) for d in set(pairs[:, 0])}
    gt_boundaries = {g: _boundary(gt_masks[g], distance) for g in set(pairs[:, 1])}
    smaller = ious.copy()
    for d, g in pairs:
        of_boundaries = hotcoco_mask.iou([boundaries[d]], [gt_boundaries[g]], [False])
        smaller[d, g] = min(ious[d, g], of_boundaries[0, 0])
    return smaller


def _boundary(rle, distance):
    import cv2

    mask = hotcoco_mask.decode(rle).T  # which OpenCV takes as it is in memory
    x, y, width, height = hotcoco_mask.toBbox(rle).astype(int)
    box = mask[x : x + width, y : y + height]  # around it all is outside
    if box.size:
        kernel = np.ones((2 * distance + 1, 2 * distance + 1), dtype=np.uint8)
        box -= cv2.erode(box, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return hotcoco_mask.encode(mask.T)
