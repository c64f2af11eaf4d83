"""Repeat factor sampling: how often an image comes in an epoch."""

import numpy as np
import torch

from .annotation_columns import AnnotationColumns


def repeat_factors(columns: AnnotationColumns, threshold: float, sqrt: bool = True) -> torch.Tensor:
    """
    The factors of https://arxiv.org/abs/1908.03195, appendix B.2, for Detectron2's
    ``RepeatFactorTrainingSampler``, whose own function gives the same numbers.

    Args:
        columns: of the training set; crowd annotations count, as in Detectron2.
        threshold: frequency, images with the class / all images, below which a class is repeated.
        sqrt: a class of frequency f is repeated sqrt(threshold / f) times, else threshold / f.

    Returns:
        (N,) float32, at least 1: for each image the largest factor of its classes.

    Raises:
        ValueError: a class id is negative.
    """
    images, classes = columns.classes_of_images()
    if len(classes) and classes[0] < 0:
        raise ValueError(f"image {images[0]} of the training set has class id {classes[0]}")
    image_counts = np.bincount(classes)
    frequencies = np.maximum(image_counts, 1) / max(columns.num_images, 1)
    ratios = threshold / frequencies
    class_factors = np.maximum(1.0, np.sqrt(ratios) if sqrt else ratios)
    factors = np.ones(columns.num_images)
    np.maximum.at(factors, images, class_factors[classes])
    return torch.from_numpy(factors).float()
