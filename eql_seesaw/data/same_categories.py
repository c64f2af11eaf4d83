"""Whether the datasets to train and to evaluate on have the same classes."""

from collections.abc import Sequence

from .class_names import class_names, first_difference


def check_same_categories(train_names: Sequence[str], test_names: Sequence[str]) -> None:
    """
    Check that the datasets have the same class names, in the order of contiguous class ids.
    Datasets whose class names are unknown before they are loaded are left out.

    Args:
        train_names: ``DATASETS.TRAIN``.
        test_names: ``DATASETS.TEST``.

    Raises:
        ValueError: a dataset to evaluate on has other classes than one to train on, or its
            annotation file is malformed.
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
            index = first_difference(found, expected)
            if index is not None:
                raise ValueError(
                    f"DATASETS.TEST: class {index} is '{found[index]}' in dataset '{test_name}', "
                    f"but '{expected[index]}' in '{train_name}' of DATASETS.TRAIN"
                )
