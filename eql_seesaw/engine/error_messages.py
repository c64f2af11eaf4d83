"""Errors as one line."""

import re
from datetime import timedelta

from torch.distributed import DistError

# Errors of config, data, weights, disk and numbers. Their message is enough; of others it takes the
# traceback to understand them.
EXPECTED_ERRORS = (ValueError, OSError, ImportError, FloatingPointError)


class RankLost(Exception):
    """The others cannot be reached: what this process meets when another has failed."""


def last_line(error: BaseException) -> str:
    """The last line of an error's message: a data loader worker's begins with its traceback."""
    lines = str(error).strip().splitlines()
    return lines[-1].removeprefix("ValueError: ") if lines else repr(error)


def rank_lost(error: Exception, timeout: timedelta) -> RankLost | None:
    """
    What an error of a collective, which torch words for its developers, says to users.

    Args:
        error: any exception.
        timeout: of collectives.

    Returns:
        None for an error of another kind.
    """
    message = str(error)
    if not isinstance(error, RuntimeError) or not (
        isinstance(error, DistError) or re.search(r"gloo|nccl", message, re.IGNORECASE)
    ):
        return None
    if re.search("timed out|timeout", message, re.IGNORECASE):
        minutes = timeout.total_seconds() / 60
        return RankLost(
            f"another rank did not answer within {minutes:g} minutes, so it stalls or has ended; "
            "if it only needs longer, raise --timeout MINUTES"
        )
    if re.search("closed|reset|broken pipe|remote", message, re.IGNORECASE):
        return RankLost("the connection to another rank is lost; its log may say why")
    return None
