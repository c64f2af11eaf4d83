"""
Processes of tests, forked from one server that has imported what takes seconds: ranks that call a
function, and scripts that run as from the command line.
"""

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
# Started once, it forks the processes of all tests.
FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(["eql_seesaw.engine", "eql_seesaw.evaluation"])


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


class Script:
    """
    A script with its command line, in a process group of its own. The processes that ``launch``
    starts are forked from it, so that they need not import anything either.

    Args:
        path: of the script, below the repository; or a module's name.
        arguments: its command line.
        log: a new file for what it writes; by default ``stdout`` and ``stderr`` are pipes.
        folder: where it runs.
        variables: of its environment.
    """

    def __init__(
        self,
        path: str,
        *arguments: Any,
        log: Path | None = None,
        folder: Path = ROOT,
        **variables: Any,
    ) -> None:
        pipes = [FORK_SERVER.Pipe(duplex=False) for _ in range(0 if log else 2)]
        outputs = [log, log] if log else [output for _, output in pipes]
        environment = {name: str(value) for name, value in variables.items()}
        path = str(ROOT / path) if path.endswith(".py") else path
        command = [path, *map(str, arguments)]
        is_ready, ready = FORK_SERVER.Pipe(duplex=False)
        self.process = FORK_SERVER.Process(
            target=_run_script, args=(ready, outputs, command, folder, environment)
        )
        self.process.start()
        ready.close()
        for _, output in pipes:
            output.close()
        is_ready.recv()
        self.pid = self.process.pid
        if pipes:
            self.stdout, self.stderr = (os.fdopen(os.dup(pipe.fileno())) for pipe, _ in pipes)

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once it has ended."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise TimeoutError(f"it runs for more than {timeout} seconds")
        return self.process.exitcode

    def communicate(self, timeout: float = 60) -> tuple[int, str, str]:
        """Exit status and outputs, which a pipe takes; it is killed after ``timeout`` seconds."""
        kill = threading.Timer(timeout, os.killpg, (self.pid, signal.SIGKILL))
        kill.start()
        output, errors = self.stdout.read(), self.stderr.read()
        kill.cancel()
        return self.wait(timeout), output, errors

    def end(self, signum: signal.Signals) -> int:
        """Send a signal to all its processes; the exit status."""
        os.killpg(self.pid, signum)
        return self.wait(300)


def _run_script(ready, outputs, command, folder, environment):
    os.setsid()
    os.environ.update(environment, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # as anywhere else on Linux
    for number, output in enumerate(outputs, start=1):
        output = open(output, "a") if isinstance(output, Path) else output
        os.dup2(output.fileno(), number)
        output.close()
    os.chdir(folder)
    from eql_seesaw.engine import launch

    # The module of that name is hidden by its function.
    sys.modules[launch.__module__].start_processes = _fork_processes
    sys.argv = command
    ready.send(None)
    ready.close()
    if command[0].endswith(".py"):
        runpy.run_path(command[0], run_name="__main__")
    else:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)


def _fork_processes(function, arguments, nprocs, join, start_method):
    assert start_method == "spawn"
    start = partial(torch.multiprocessing.start_processes, start_method="fork")
    return start(function, arguments, nprocs, join=join)


def free_port() -> int:
    """A port that nothing listens to yet."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def train_net_on_ranks(folder: Path, *arguments: Any, num_ranks: int = 2, **variables: Any) -> None:
    """
    Run train_net.py on ranks with the variables that torchrun sets, and others; ``folder`` for its
    logs.
    """
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    sizes = {"WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks}
    ranks = [
        Script(
            *("train_net.py", *arguments),
            log=folder / f"rank{rank}.txt",
            **{"RANK": rank, "LOCAL_RANK": rank, **sizes, **meeting, **variables},
        )
        for rank in range(num_ranks)
    ]
    statuses = [rank.wait(300) for rank in ranks]
    logs = [(folder / f"rank{rank}.txt").read_text()[-3000:] for rank in range(num_ranks)]
    assert not any(statuses), logs
