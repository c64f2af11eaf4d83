"""Errors of collectives, in words for users."""

import re
from datetime import timedelta

from torch.distributed import DistError

from ..command_line import RankLost


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
