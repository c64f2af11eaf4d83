"""
Beginning and end of commands: arguments and errors. Nothing here takes time to import, so that
``--help`` and typing errors are answered at once; what does is imported by the commands afterwards.
"""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator

from .config_files import find_config_file

# Errors of config, data, weights, disk and numbers. Their message is enough; of others it takes the
# traceback to understand them.
EXPECTED_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)


def argument_parser(description: str) -> argparse.ArgumentParser:
    """The arguments of a training: those of Detectron2's programs, and --timeout."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="", type=_file, metavar="FILE", help="YAML")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint in OUTPUT_DIR, if there is one",
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate, and do not train")
    parser.add_argument(
        "--num-gpus",
        type=int,
        default=1,
        metavar="N",
        help="processes on this machine, one for each GPU; without GPUs, on its CPU (default: 1)",
    )
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument(
        "--machine-rank", type=int, default=0, metavar="I", help="of this machine, counted from 0"
    )
    parser.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="where several machines meet: tcp://HOST:PORT, HOST that of --machine-rank 0",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        metavar="MINUTES",
        help="end when another process does not answer for so long (default: 30)",
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="config keys and their values, instead of those in the file",
    )
    return parser


def _file(path: str) -> str:
    if path and "://" not in path and not os.path.exists(find_config_file(path)):
        raise argparse.ArgumentTypeError(f"no such file: {path}")
    return path


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """
    End the program with one line on stderr, and status 1, where config, data, weights, disk or
    numbers are wrong; of errors that nobody expects, with a traceback. Ctrl-C ends it with status
    130.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error}; docs/installation.md says what to install")
    except EXPECTED_ERRORS as error:
        sys.exit(f"error: {last_line(error)}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def last_line(error: BaseException) -> str:
    """The last line of an error's message: a data loader worker's begins with its traceback."""
    lines = str(error).strip().splitlines()
    return lines[-1].removeprefix("ValueError: ") if lines else repr(error)
