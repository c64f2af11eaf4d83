"""Ours beside a peer: time and memory, and the table of their ratios."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch.profiler import ProfilerActivity, profile
from torch.utils import benchmark

Function = Callable[[], object]

HEADERS = ("work", "against", "size", "ours", "theirs", "time ratio (quartiles)", "memory ratio")
ROUNDS, SECONDS_PER_ROUND = 5, 0.2


def arguments(description: str) -> argparse.Namespace:
    """Options that all scripts have: --device, and --quick for sizes that take seconds."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: --device cuda, but there is no GPU")
    return args


def seconds_of(functions: Sequence[Function], args: argparse.Namespace) -> list[list[float]]:
    """
    Seconds of each function, one number a round. They take turns, so that what disturbs the machine
    disturbs all. On one thread of a CPU this is process time, which leaves out what else it did.
    """
    threads = torch.get_num_threads()
    one_thread = args.device == "cpu" and threads == 1
    clock = {"timer": time.process_time} if one_thread else {}
    timers = [
        benchmark.Timer("run()", globals={"run": function}, num_threads=threads, **clock)
        for function in functions
    ]
    rounds, least = (1, 0.001) if args.quick else (ROUNDS, SECONDS_PER_ROUND)
    return [
        list(seconds)
        for seconds in zip(
            *(
                [timer.blocked_autorange(min_run_time=least).median for timer in timers]
                for _ in range(rounds)
            )
        )
    ]


def peak_memory(function: Function, device: str) -> int:
    """Bytes that a function's tensors need at the worst moment, beyond what was there before."""
    function()  # what the first call leaves behind does not count
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    now = peak = 0
    # The summary of events() leaves out allocations inside of operators.
    for event in profiler.profiler.kineto_results.events():  # in the order of time
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def row(
    work: str,
    against: str,
    size: str,
    seconds: Sequence[float],
    peer_seconds: Sequence[float],
    memory: float | None = None,
    peer_memory: float | None = None,
) -> list[str]:
    """A row of the table; ratios are taken round by round."""
    low, median, high = np.percentile(np.divide(seconds, peer_seconds), (25, 50, 75))
    return [
        work,
        against,
        size,
        _time(np.median(seconds)),
        _time(np.median(peer_seconds)),
        f"{median:.3g} ({low:.3g} to {high:.3g})",
        f"{memory / peer_memory:.2f} of {peer_memory / 1e6:.0f} MB"
        if memory and peer_memory
        else "",
    ]


def compare(
    work: str, against: str, size: str, ours: Function, theirs: Function, args: argparse.Namespace
) -> list[str]:
    """A row of two functions, measured here."""
    seconds = seconds_of([ours, theirs], args)
    memory = [peak_memory(function, args.device) for function in (ours, theirs)]
    return row(work, against, size, *seconds, *memory)


def in_own_process(script: str, *words: str) -> dict[str, Any]:
    """Values that a script of this folder prints as its last line, on one thread."""
    output = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"benchmarks.{script}", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(output.stdout.splitlines()[-1])


def kilobytes(path: str, key: str) -> int:
    """A line of /proc; "VmHWM" of status is the peak of this process's resident memory."""
    with open(path) as f:
        (line,) = (line for line in f if line.startswith(f"{key}:"))
    return int(line.split()[1])


def print_table(title: str, rows: Sequence[Sequence[str]]) -> None:
    """Markdown, with the machine and the versions it was measured on."""
    print(f"## {title}\n")
    print(
        f"{time.strftime('%-d %B %Y')}, {platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} thread(s), Python {platform.python_version()}, torch "
        f"{torch.__version__}. Ratios are ours / theirs.\n"
    )
    print(tabulate(rows, HEADERS, "pipe", disable_numparse=True), "\n", flush=True)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
