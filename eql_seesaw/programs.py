"""The commands that pip installs. Each is the ``main`` of a module."""

import functools
import importlib

from .command_line import one_line_errors


def run(module: str) -> int | None:
    """Run a module's ``main``; returns its exit status, None for 0."""
    # The package can be installed for its losses alone, without what the modules import.
    with one_line_errors():
        main = importlib.import_module(f"eql_seesaw.{module}").main
    return main()


train = functools.partial(run, "train")
predict = functools.partial(run, "predict")
evaluate = functools.partial(run, "evaluation.__main__")
calibrate = functools.partial(run, "calibrate")
tables = functools.partial(run, "tables.__main__")
check = functools.partial(run, "data.check")
report = functools.partial(run, "evaluation.report.__main__")
export = functools.partial(run, "export")
