"""LVIS's groups of rare, common and frequent classes."""

import numpy as np
from numpy.typing import ArrayLike

# Training images up to which a class is rare, or common; all others are frequent. LVIS's own.
# After a change, annotation files that have `frequency` keep their groups in evaluation, which
# warns of it.
RARE_MAX_IMAGES = 10
COMMON_MAX_IMAGES = 100

GROUP_NAMES = {"r": "rare", "c": "common", "f": "frequent"}


def frequency_groups(image_counts: ArrayLike) -> list[str]:
    """
    Args:
        image_counts: (K,) number of training images that hold each class.

    Returns:
        K times "r", "c" or "f". A class without any training image counts as rare.
    """
    indices = np.searchsorted((RARE_MAX_IMAGES, COMMON_MAX_IMAGES), image_counts)
    return [list(GROUP_NAMES)[index] for index in indices]
