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
        smaller[d, g] = min(ious[d, g], _iou(boundaries[d], gt_boundaries[g]))
    return smaller


def _boundary(rle, distance):
    """The boundary of a mask: its bounding box x, y and what is in it, (w, h) of 0 and 1."""
    import cv2

    x, y, w, h = hotcoco_mask.toBbox(rle).astype(int)
    mask = np.ascontiguousarray(hotcoco_mask.decode(rle).T[x : x + w, y : y + h])
    kernel = np.ones((2 * distance + 1, 2 * distance + 1), dtype=np.uint8)
    inside = cv2.erode(mask, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return x, y, mask - inside


def _iou(one, other):
    (x1, y1, boundary1), (x2, y2, boundary2) = one, other
    x, y = max(x1, x2), max(y1, y2)
    overlap1, overlap2 = boundary1[x - x1 :, y - y1 :], boundary2[x - x2 :, y - y2 :]
    w, h = np.minimum(overlap1.shape, overlap2.shape)
    intersection = np.count_nonzero(overlap1[:w, :h] & overlap2[:w, :h])
    union = np.count_nonzero(boundary1) + np.count_nonzero(boundary2) - intersection
    return intersection / union
