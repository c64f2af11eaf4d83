"""AP of classes against how many training images they have."""

from collections.abc import Sequence

import numpy as np

from ...data.frequency_groups import COMMON_MAX_IMAGES, RARE_MAX_IMAGES

# Upper ends of ranges of training images, two to a decade. The groups' ends are among them, so that
# no range holds classes of two groups.
RANGE_ENDS = sorted(
    {0, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000}
    | {RARE_MAX_IMAGES, COMMON_MAX_IMAGES}
)


def mean_ap_by_range(
    train_images: Sequence[int | None], aps: Sequence[float | None]
) -> list[tuple[int, int, float, int]]:
    """
    Args:
        train_images: number of training images of each class, None where unknown.
        aps: of each class, in percent, None without ground truth.

    Returns:
        (first, last, mean AP, classes) of each range of training images that holds classes, both
        ends belonging to it.
    """
    known = [(n, ap) for n, ap in zip(train_images, aps, strict=True) if None not in (n, ap)]
    counts = np.array([n for n, _ in known])
    values = np.array([ap for _, ap in known])
    index = np.searchsorted(RANGE_ENDS, counts)
    ranges = []
    for i in np.unique(index):
        chosen = index == i
        first = RANGE_ENDS[i - 1] + 1 if i else 0
        last = RANGE_ENDS[i] if i < len(RANGE_ENDS) else int(counts.max())
        ranges.append((first, last, float(values[chosen].mean()), int(chosen.sum())))
    return ranges
