"""Paired timing: each round times both sides, so that a busy machine slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

__all__ = ["paired"]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def paired(
    first: Callable[[], object], second: Callable[[], object], rounds: int = 7
) -> tuple[float, float, tuple[float, float, float]]:
    """Median seconds of both sides, and lowest, median and highest ratio first/second over the rounds."""
    first(), second()  # warm up: caches, compilation
    times = [(_seconds(first), _seconds(second)) for _ in range(rounds)]
    ratios = sorted(a / b for a, b in times)
    medians = (statistics.median(a for a, _ in times), statistics.median(b for _, b in times))
    return *medians, (ratios[0], statistics.median(ratios), ratios[-1])
