"""From training image counts to the classes that the equalization losses protect."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import class_vector


def rarity_threshold(
    image_counts: Sequence[float] | Tensor | None,
    num_classes: int,
    max_image_count: int,
    lambda_: float | None = None,
    num_images: int | None = None,
) -> Tensor:
    r"""
    The threshold function :math:`T_\lambda(f_j)` of E eq. 7 (https://arxiv.org/abs/2003.05176).

    A threshold in images selects the same groups in every version of a data set: 100 is rare and
    common in LVIS v0.5 and v1, whereas the paper's lambda takes frequent classes of v1 as well.

    Args:
        image_counts: (K,) training images that hold class j. Images, not instances.
        num_classes: K.
        max_image_count: T is 1 for classes with at most this many images ...
        lambda_: ... unless this frequency is given; then where f_j < lambda, strictly.
        num_images: training images with at least one annotation; needed by ``lambda_``.

    Returns:
        float32 (K,) of 0 and 1.
    """
    counts = class_vector(image_counts, num_classes, "image_counts")
    if lambda_ is None:
        if max_image_count < 0:
            raise ValueError(f"max_image_count must not be negative, got {max_image_count}")
        return (counts <= max_image_count).float()
    if lambda_ < 0:
        raise ValueError(f"lambda must not be negative, got {lambda_}")
    return (image_frequencies(counts, num_images) < lambda_).float()


def image_frequencies(image_counts: Tensor, num_images: int | None) -> Tensor:
    """
    f_j of E eq. 7: the share of training images that hold class j, float64 (K,).

    Raises:
        ValueError: ``num_images`` is missing, or smaller than the largest image count.
    """
    if num_images is None:
        raise ValueError("frequencies need num_images, the number of annotated training images")
    if num_images < image_counts.max() or num_images < 1:
        raise ValueError(
            f"num_images={num_images} is smaller than the {int(image_counts.max())} images of "
            "the most frequent class"
        )
    return image_counts / num_images


def tail_ratio(threshold: Tensor, image_counts: Sequence[float] | Tensor) -> float:
    r"""TR = sum_j T_j N_j / sum_j N_j, in [0, 1]: E eq. 8; N_j are image counts."""
    counts = torch.as_tensor(image_counts, dtype=torch.float64, device="cpu").flatten()
    return float((threshold.double() * counts).sum() / counts.sum().clamp(min=1))
