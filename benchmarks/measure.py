"""Interleaved measurements of ours and a peer, and the table of their ratios."""

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

Function = Callable[[], object]

HEADERS = (
    "work",
    "against",
    "size",
    "ours",
    "theirs",
    "time ratio (quartiles)",
    "memory ratio",
    "",
)


def arguments(description: str) -> argparse.Namespace:
    """Options that all scripts have: --device, and --quick for sizes that take seconds."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--classes", type=int, help="sizes of this number of classes only")
    parser.add_argument("--offline", action="store_true", help="no peers to be downloaded")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: --device cuda, but there is no GPU")
    return args


def chosen(args: argparse.Namespace, cases: Sequence[tuple], quick_cases: Sequence[tuple]):
    """Cases that the options ask for; each begins with its number of classes."""
    if args.quick:
        return quick_cases
    return [case for case in cases if args.classes in (None, case[0])]


def interleaved_seconds(
    functions: Sequence[Function], rounds: int, device: str = "cpu"
) -> list[list[float]]:
    """
    Seconds of each function, one number a round, after a round that is not counted. They take
    turns, each round beginning with another one, so that what disturbs the machine disturbs all.
    On one thread of a CPU this is process time, which leaves out what else the machine did.
    """
    one_thread = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if one_thread else time.perf_counter
    seconds: list[list[float]] = [[] for _ in functions]
    for round_ in range(-1, rounds):
        for place in range(len(functions)):
            index = (place + round_) % len(functions)
            if device == "cuda":
                torch.cuda.synchronize()
            start = clock()
            functions[index]()
            if device == "cuda":
                torch.cuda.synchronize()
            if round_ >= 0:
                seconds[index].append(clock() - start)
    return seconds


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


def peak_memory(function: Function, device: str = "cpu") -> int:
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
    note: str = "",
) -> list[str]:
    """A row of the table; ratios are taken round by round."""
    low, median, high = np.percentile(np.divide(seconds, peer_seconds), (25, 50, 75))
    has_memory = memory is not None and peer_memory
    return [
        work,
        against,
        size,
        _time(np.median(seconds)),
        _time(np.median(peer_seconds)),
        f"{median:.3g} ({low:.3g} to {high:.3g})",
        f"{memory / peer_memory:.2f} of {peer_memory / 1e6:.0f} MB" if has_memory else "",
        note,
    ]


def compare(
    work: str,
    against: str,
    size: str,
    ours: Function,
    theirs: Function,
    rounds: int,
    device: str = "cpu",
    with_memory: bool = True,
    note: str = "",
) -> list[str]:
    """A row of two functions, measured here."""
    seconds, peer_seconds = interleaved_seconds([ours, theirs], rounds, device)
    memory = [peak_memory(f, device) if with_memory else None for f in (ours, theirs)]
    return row(work, against, size, seconds, peer_seconds, *memory, note=note)


def print_table(title: str, rows: Sequence[Sequence[str]]) -> None:
    """Markdown, with the machine and the versions it was measured on."""
    cores = torch.get_num_threads()
    print(f"## {title}\n")
    print(
        f"{time.strftime('%-d %B %Y')}, {platform.processor() or platform.machine()}, "
        f"{cores} thread(s), Python {platform.python_version()}, torch {torch.__version__}. "
        "Ratios are ours / theirs.\n"
    )
    print(tabulate(rows, HEADERS, "pipe", disable_numparse=True), "\n", flush=True)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
