"""
Examine the datasets of a config before training::

    python -m eql_seesaw.data.check --config-file FILE [KEY VALUE ...]

Everything is looked at, whatever is found on the way. Errors are what training or an evaluation
would end with; what is merely suspicious is a warning. The exit status is 1 if there is any error.
"""

import argparse
import sys

from ..command_line import one_line_errors


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m eql_seesaw.data.check",
        description="Examine the datasets of a config before training.",
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    args = parser.parse_args(arguments)
    with one_line_errors():
        # Not at the top: they take seconds, for which --help need not wait.
        from ..config import load_config
        from .check_datasets import check_datasets

        # A key of training, which may be meant for another machine than the one with the data.
        cfg = load_config(args.config_file, [*args.opts, "SOLVER.AMP.ENABLED", "False"])
        report = check_datasets(cfg)
    print(report)
    return 1 if report.num_errors else 0


if __name__ == "__main__":
    sys.exit(main())
