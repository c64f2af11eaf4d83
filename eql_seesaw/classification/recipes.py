"""Recipes of training on each data set."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from . import backbones


@dataclass
class Recipe:
    """
    Attributes:
        backbone: makes the network in front of the classifier.
        num_features: its number of outputs.
        iterations, batch_size, learning_rate, nesterov, weight_decay: of SGD, momentum 0.9.
        schedule: from progress in [0, 1) to a factor of the learning rate.
        losses: arguments of each loss.
        group_bounds: classes with more than ``group_bounds[1]`` training images are many-shot,
            those with fewer than ``group_bounds[0]`` few-shot.
        num_workers: processes that load images.
    """

    backbone: Callable[[], nn.Module]
    num_features: int
    iterations: int
    batch_size: int
    learning_rate: float
    nesterov: bool
    weight_decay: float
    schedule: Callable[[float], float]
    losses: dict[str, dict[str, float]]
    group_bounds: tuple[int, int]
    num_workers: int


def cosine(progress: float) -> float:
    """From 1 down to 0."""
    return (1 + math.cos(math.pi * progress)) / 2


def steps_with_warm_up(progress: float) -> float:
    """The EQL paper's, for CIFAR-100-LT: from 0.5 up to 1 over 400 of 12,800 iterations, then /10
    at one half and at three quarters."""
    warm_up = 400 / 12800
    if progress < warm_up:
        return 0.5 + 0.5 * progress / warm_up
    return 0.1 ** ((progress >= 0.5) + (progress >= 0.75))


def loss_arguments(**softmax_eql: float) -> dict[str, dict[str, float]]:
    """Arguments of each loss; the equalization loss's threshold depends on the data."""
    return {"softmax_ce": {}, "softmax_eql": softmax_eql, "seesaw": {"p": 0.8, "q": 1.0}}


RECIPES = {
    "digits": Recipe(
        backbone=backbones.small_cnn,
        num_features=1024,
        iterations=600,
        batch_size=64,
        learning_rate=0.05,
        nesterov=True,
        weight_decay=5e-4,
        schedule=cosine,
        # The few-shot classes are protected.
        losses=loss_arguments(max_image_count=9, gamma=0.95),
        group_bounds=(10, 50),
        num_workers=0,
    ),
    # The EQL paper, https://arxiv.org/abs/2003.05176, section 5.
    "cifar100-lt": Recipe(
        backbone=backbones.resnet32,
        num_features=64,
        iterations=12800,
        batch_size=256,
        learning_rate=0.2,
        nesterov=True,
        weight_decay=1e-4,
        schedule=steps_with_warm_up,
        losses=loss_arguments(lambda_=3e-3, gamma=0.95),
        group_bounds=(20, 100),
        num_workers=4,
    ),
    # The Seesaw paper, https://arxiv.org/abs/2008.10032, section 4.4: 90 epochs of 115,846 images.
    "imagenet-lt": Recipe(
        backbone=backbones.resnext50,
        num_features=2048,
        iterations=90 * 115846 // 512,
        batch_size=512,
        learning_rate=0.2,
        nesterov=False,
        weight_decay=5e-4,
        schedule=cosine,
        losses=loss_arguments(lambda_=4.3e-4, gamma=0.9),
        group_bounds=(20, 100),
        num_workers=16,
    ),
}
