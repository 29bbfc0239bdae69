"""How long does each of several ways take: alternating, so that a machine's moods fall on all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Timed:
    """Seconds of repeated runs."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle run."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> str:
        """Slowest and fastest beside the median, for people."""
        low, high = min(self.seconds) / self.median - 1, max(self.seconds) / self.median - 1
        return f"{len(self.seconds)} runs, {low:+.0%} to {high:+.0%}"


def alternate(
    ways: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, Timed]:
    """Seconds of each way, run in turn `repeats` times after a warm-up each.

    `clock`: process_time counts the CPU of all threads, which is what a core costs; perf_counter waits too.
    """
    for way in ways.values():
        way()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = clock()
            way()
            taken[name].append(clock() - start)
    return {name: Timed(tuple(seconds)) for name, seconds in taken.items()}


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes on one thread while this lasts."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
