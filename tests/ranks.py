"""Functions on several ranks: processes of this machine that meet in ``torch.distributed``."""

import multiprocessing
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

# Started once, it has imported what takes seconds, and forks the processes of all tests.
FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(["eql_seesaw.engine"])


def run_on_ranks(
    num_ranks: int,
    function: Callable[..., None],
    folder: Path,
    *arguments: Any,
    timeout: float = 60,
) -> None:
    """
    Call ``function(rank, folder, *arguments)`` on ranks that can sum over each other with gloo.

    Args:
        function: of a module, so that it can be pickled.
        folder: where they meet, and may leave what they found.
        timeout: seconds that a collective waits.

    Raises:
        torch.multiprocessing.ProcessRaisedException: it failed on a rank.
    """
    barrier = FORK_SERVER.Barrier(num_ranks)
    torch.multiprocessing.start_processes(
        _run,
        (barrier, function, folder, arguments, timeout),
        nprocs=num_ranks,
        start_method="forkserver",
    )


def _run(rank, barrier, function, folder, arguments, timeout):
    torch.set_num_threads(1)
    barrier.wait()  # all have started, so that nothing but the function takes long
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous_of_{barrier.parties}",
        rank=rank,
        world_size=barrier.parties,
        timeout=timedelta(seconds=timeout),
    )
    function(rank, folder, *arguments)
    torch.distributed.destroy_process_group()
