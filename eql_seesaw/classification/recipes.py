"""Recipes of training on each data set."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from ..losses import LOSSES
from . import backbones


def cosine(progress: float) -> float:
    """From 1 down to 0."""
    return (1 + math.cos(math.pi * progress)) / 2


def steps_with_warm_up(
    progress: float, start: float, warm_up: float, steps: tuple[float, ...]
) -> float:
    """From ``start`` up to 1 during ``warm_up``, then a tenth from each of ``steps`` on."""
    if progress < warm_up:
        return start + (1 - start) * progress / warm_up
    return 0.1 ** sum(progress >= step for step in steps)


@dataclass
class Recipe:
    """
    Attributes:
        backbone: makes the network in front of the classifier.
        num_features: its number of outputs; 0 where the data decide it.
        iterations, batch_size, learning_rate, weight_decay, nesterov: of SGD, momentum 0.9.
        losses: arguments of each loss; and ``classifier``, "linear" or "normed" (normalised), where
            the loss does not decide it.
        schedule: from progress in [0, 1) to a factor of the learning rate.
        group_bounds: classes with more than ``group_bounds[1]`` training images are many-shot,
            those with fewer than ``group_bounds[0]`` few-shot.
        num_workers: processes that load images.
        bfloat16: compute in bfloat16 where autocast thinks it safe.
    """

    backbone: Callable[[], nn.Module]
    num_features: int
    iterations: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    losses: dict[str, dict[str, Any]]
    nesterov: bool = True
    schedule: Callable[[float], float] = cosine
    group_bounds: tuple[int, int] = (20, 100)
    num_workers: int = 0
    bfloat16: bool = False


# Those that can do without a background class.
LOSS_NAMES = [
    name for name, loss in LOSSES.items() if "background" in inspect.signature(loss).parameters
]


def loss_arguments(seesaw_classifier: str, **softmax_eql: float) -> dict[str, dict[str, Any]]:
    """Arguments of each loss; the equalization loss's threshold depends on the data."""
    seesaw = {"p": 0.8, "q": 1.0, "classifier": seesaw_classifier}
    return {**{name: {} for name in LOSS_NAMES}, "softmax_eql": softmax_eql, "seesaw": seesaw}


RECIPES = {
    "digits": Recipe(
        backbone=backbones.small_cnn,
        num_features=1024,
        iterations=600,
        batch_size=64,
        learning_rate=0.05,
        weight_decay=5e-4,
        # The few-shot classes are protected.
        losses=loss_arguments("linear", max_image_count=9, gamma=0.95),
        group_bounds=(10, 50),
    ),
    # The EQL paper, https://arxiv.org/abs/2003.05176, section 5.
    "cifar100-lt": Recipe(
        backbone=backbones.resnet32,
        num_features=64,
        iterations=12800,
        batch_size=256,
        learning_rate=0.2,
        weight_decay=1e-4,
        schedule=partial(
            steps_with_warm_up, start=0.5, warm_up=400 / 12800, steps=(6400 / 12800, 9600 / 12800)
        ),
        losses=loss_arguments("linear", lambda_=3e-3, gamma=0.95),
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
        losses=loss_arguments("linear", lambda_=4.3e-4, gamma=0.9),
        num_workers=16,
    ),
    # The EQL paper's for ImageNet-LT.
    "imagenet-lt-resnet10": Recipe(
        backbone=backbones.resnet10,
        num_features=512,
        iterations=12000,
        batch_size=1024,
        learning_rate=0.4,
        weight_decay=1e-4,
        schedule=partial(
            steps_with_warm_up,
            start=0.25,
            warm_up=500 / 12000,
            steps=(3400 / 12000, 6800 / 12000, 10200 / 12000),
        ),
        losses=loss_arguments("linear", lambda_=4.3e-4, gamma=0.9),
        num_workers=16,
    ),
    # A classifier alone, on features that are there.
    "features": Recipe(
        backbone=nn.Identity,
        num_features=0,
        iterations=1200,
        batch_size=256,
        learning_rate=0.02,
        weight_decay=5e-4,
        losses=loss_arguments("normed", lambda_=3e-3, gamma=0.95),
    ),
}
