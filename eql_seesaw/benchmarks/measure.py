"""Time and memory of functions, measured in turn."""

import time
from collections.abc import Callable, Sequence

import torch
from torch.profiler import ProfilerActivity, profile

Function = Callable[[], object]


def interleaved_seconds(
    functions: Sequence[Function], repetitions: int, warm_up: int = 2, device: str = "cpu"
) -> list[list[float]]:
    """
    Run the functions one after the other, many times over, so that what disturbs the machine
    disturbs all of them. Each round begins with another one, so that none always follows the same.

    Args:
        functions: to be measured.
        repetitions: measured rounds.
        warm_up: rounds before them.
        device: "cuda" to measure by CUDA events.

    Returns:
        For each function its seconds, one number a round.
    """
    seconds: list[list[float]] = [[] for _ in functions]
    elapsed = _cuda_seconds if device == "cuda" else _cpu_seconds
    for round_ in range(-warm_up, repetitions):
        for place in range(len(functions)):
            index = (place + round_) % len(functions)
            measured = elapsed(functions[index])
            if round_ >= 0:
                seconds[index].append(measured)
    return seconds


def peak_memory(function: Function, device: str = "cpu") -> int:
    """
    Bytes that the function's tensors need at the worst moment, beyond what was there before. On
    CPU these are the allocations that PyTorch's profiler sees.
    """
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
    # The summary of events() leaves out allocations inside of operators.
    events = profiler.profiler.kineto_results.events()
    now = peak = 0
    for event in events:  # in the order of time
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def _cpu_seconds(function: Function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _cuda_seconds(function: Function) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000
