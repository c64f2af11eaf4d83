"""Whether the datasets to train and to evaluate on have the same classes."""

import logging
from collections.abc import Sequence
from operator import ne

from .class_names import class_names

logger = logging.getLogger(__name__)

# Up to this share of the classes may have another name: Detectron2 calls class 161 of LVIS v1
# "horned_cow", the file "bull". Other classes, or another order, change many more.
MAX_RENAMED = 0.01


def check_same_categories(train_names: Sequence[str], test_names: Sequence[str]) -> None:
    """
    Check that the datasets have the same class names, in the order of contiguous class ids.
    Datasets whose class names are unknown before they are loaded are left out.

    Args:
        train_names: ``DATASETS.TRAIN``.
        test_names: ``DATASETS.TEST``.

    Raises:
        ValueError: a dataset to evaluate on has other classes than one to train on (more than
            :data:`MAX_RENAMED` of the names), or its annotation file is malformed.
    """
    train_classes = {name: class_names(name) for name in train_names}
    for test_name in test_names:
        found = class_names(test_name)
        for train_name, expected in train_classes.items():
            if not found or not expected:
                continue
            if len(found) != len(expected):
                raise ValueError(
                    f"DATASETS.TEST: dataset '{test_name}' has {len(found)} classes, but "
                    f"'{train_name}' in DATASETS.TRAIN has {len(expected)}"
                )
            different = [i for i, name in enumerate(found) if name != expected[i]]
            if not different:
                continue
            first = different[0]
            message = (
                f"DATASETS.TEST: class {first} is '{found[first]}' in dataset '{test_name}', "
                f"but '{expected[first]}' in '{train_name}' of DATASETS.TRAIN"
            )
            if not are_same_classes(found, expected):
                raise ValueError(message)
            logger.warning(message)


def are_same_classes(names: Sequence[str], others: Sequence[str]) -> bool:
    """Whether as many, and up to :data:`MAX_RENAMED` of them the same, in the same order."""
    if len(names) != len(others):
        return False
    return sum(map(ne, names, others)) <= MAX_RENAMED * len(names)
