"""Fractal dimension of each class: how evenly its objects lie over the images."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

# Cells along a side of the finest grid.
MAX_GRID = 64
# With fewer instances the dimension is 1, the smallest.
MIN_INSTANCES = 4


def fractal_dimensions(dataset_dicts: Iterable[Mapping[str, Any]], num_classes: int) -> np.ndarray:
    """
    Box-counting dimension of the box centres of each class, from 1 (they lie along a line, or are
    few) to 2 (everywhere), as in the released code of https://arxiv.org/abs/2410.11774: the slope
    of log(occupied cells) over log(g), by least squares, of grids of g x g cells over the image
    with g up to 64 and g^2 up to the number of instances.

    Args:
        dataset_dicts: dataset in Detectron2's standard format, with contiguous class ids. Crowds
            are left out.
        num_classes: K.

    Returns:
        float64 (K,).
    """
    classes, centres = _box_centres(dataset_dicts)
    counts = np.bincount(classes, minlength=num_classes)
    grids = np.arange(1, min(MAX_GRID, int(counts.max(initial=1) ** 0.5)) + 1)
    occupied = np.stack([_occupied_cells(classes, centres, g, num_classes) for g in grids.tolist()])
    dimensions = np.ones(num_classes)
    for k in np.flatnonzero(counts >= MIN_INSTANCES):
        is_used = grids**2 <= counts[k]
        slope, _ = np.polyfit(np.log(grids[is_used]), np.log(occupied[is_used, k]), deg=1)
        dimensions[k] = max(slope, 1.0)
    return dimensions


def _occupied_cells(
    classes: np.ndarray, centres: np.ndarray, grid: int, num_classes: int
) -> np.ndarray:
    """Cells of a grid that hold a centre of each class, (K,)."""
    columns, rows = np.clip((centres * grid).astype(np.int64), 0, grid - 1).T
    cells = np.unique((classes * grid + rows) * grid + columns)
    return np.bincount(cells // grid**2, minlength=num_classes)


def _box_centres(dataset_dicts: Iterable[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Class (A,) and box centre (A, 2) of each object, x and y as shares of the image's size."""
    by_mode: defaultdict[BoxMode, list[tuple]] = defaultdict(list)
    for image in dataset_dicts:
        size = image["width"], image["height"]
        for annotation in image.get("annotations", ()):
            if not annotation.get("iscrowd", 0):
                row = (annotation["category_id"], *size, *annotation["bbox"])
                by_mode[annotation["bbox_mode"]].append(row)
    classes, centres = [np.empty(0, np.int64)], [np.empty((0, 2))]
    for mode, rows in by_mode.items():
        columns = np.array(rows, dtype=np.float64)
        boxes = BoxMode.convert(columns[:, 3:], mode, BoxMode.XYXY_ABS)
        classes.append(columns[:, 0].astype(np.int64))
        centres.append((boxes[:, :2] + boxes[:, 2:]) / 2 / columns[:, 1:3])
    return np.concatenate(classes), np.concatenate(centres)
