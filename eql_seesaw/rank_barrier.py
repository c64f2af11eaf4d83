"""Waiting for rank 0, however long it works alone."""

import time
import weakref
from datetime import timedelta
from typing import cast

import torch.distributed as dist
from detectron2.utils import comm

# The timeout of ordinary collectives is meant to find ranks that stall.
_UNLIMITED = timedelta(days=365)
# torch holds the group, and ends it with the others (a group that is kept may abort the process).
_groups: weakref.WeakValueDictionary[str, dist.ProcessGroup] = weakref.WeakValueDictionary()


def wait_for_all() -> None:
    """
    Return when all ranks have called it. A barrier whose timeout is that of no ordinary collective,
    for the end of work that one rank does while the others have nothing to do, such as computing
    AP. Python handles signals meanwhile. With one process it does nothing.

    Raises:
        RuntimeError: another rank has ended.
    """
    if comm.get_world_size() == 1:
        return
    work = dist.barrier(_group(), async_op=True)
    while not work.is_completed():
        time.sleep(0.02)
    work.wait()


def _group() -> dist.ProcessGroup:
    """Of all ranks, on CPUs."""
    group = _groups.get("all ranks")
    if group is None:
        # Not the number that stands for a group without this rank.
        new_group = dist.new_group(backend="gloo", timeout=_UNLIMITED)
        group = _groups["all ranks"] = cast(dist.ProcessGroup, new_group)
    return group
