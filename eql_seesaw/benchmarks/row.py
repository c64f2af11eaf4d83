"""One line of the benchmark: some work of ours, measured beside a peer's."""

import dataclasses
import statistics
from typing import Any


@dataclasses.dataclass(frozen=True)
class Row:
    """
    Attributes:
        benchmark: name of the module that measured it.
        work: what is done.
        against: whose time is the denominator.
        size: of the work, for people.
        parameters: of the work, for plots: "num_classes", "num_images", "dtype", ...
        seconds: ours, one number for each repetition; empty if it could not be measured.
        peer_seconds: the peer's, as many, measured in turn with ours.
        memory: our peak memory in bytes beyond what was there before; None if it is not measured.
        peer_memory: the peer's.
        time_limit: what the time ratio is to reach, at most; None if there is no aim.
        memory_limit: what the memory ratio is to reach, at most.
        identical: whether the outcomes are the same; None if that is not the question.
        note: a sentence on what is special.
    """

    benchmark: str
    work: str
    against: str
    size: str
    parameters: dict[str, Any]
    seconds: list[float]
    peer_seconds: list[float]
    memory: int | None = None
    peer_memory: int | None = None
    time_limit: float | None = None
    memory_limit: float | None = None
    identical: bool | None = None
    note: str = ""

    @property
    def time_ratio(self) -> float | None:
        """Our median time, divided by the peer's."""
        if not self.seconds or not self.peer_seconds:
            return None
        return statistics.median(self.seconds) / statistics.median(self.peer_seconds)

    @property
    def time_ratio_quartiles(self) -> tuple[float, float] | None:
        """Between them is the middle half of the rounds' own ratios; None for under four rounds."""
        if min(len(self.seconds), len(self.peer_seconds)) < 4:
            return None
        rounds = zip(self.seconds, self.peer_seconds, strict=True)
        first, _, third = statistics.quantiles(ours / theirs for ours, theirs in rounds)
        return first, third

    @property
    def memory_ratio(self) -> float | None:
        """Our peak memory, divided by the peer's."""
        if self.memory is None or not self.peer_memory:
            return None
        return self.memory / self.peer_memory

    @property
    def reached(self) -> bool | None:
        """Whether all aims are reached; None if there are none, or one was not measured."""
        pairs = [(self.time_ratio, self.time_limit), (self.memory_ratio, self.memory_limit)]
        aims = [(ratio, limit) for ratio, limit in pairs if limit is not None]
        if self.identical is False:
            return False
        if not aims or any(ratio is None for ratio, _ in aims):
            return None
        return all(ratio is not None and ratio <= limit for ratio, limit in aims)
