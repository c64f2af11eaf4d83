"""Old names, until other rooms have moved."""

from types import SimpleNamespace

from . import training_set
from .class_names import class_names
from .training_set import are_same_classes  # noqa: F401


def check_same_categories(train_names, test_names):
    tests = {name: class_names(name) for name in test_names}
    for name in train_names:
        one = SimpleNamespace(class_names=class_names(name), names=(name,))
        training_set.check_same_categories(one, tests)
