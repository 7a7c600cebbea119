"""The clock of a run: wall and CPU seconds by phase. It is stopped while the harness scores and writes files."""

from __future__ import annotations

import time
from collections.abc import Mapping

__all__ = ["PhaseClock"]

Seconds = dict[str, dict[str, float]]


class PhaseClock:
    """Accumulates wall and CPU time by phase while it is running."""

    def __init__(self) -> None:
        self._seconds: Seconds = {}
        self._phase = "unassigned"
        self._since: tuple[float, float] | None = None

    def _collect(self) -> None:
        if self._since is None:
            return
        now = (time.perf_counter(), time.process_time())
        spent = self._seconds.setdefault(self._phase, {"wall": 0.0, "cpu": 0.0})
        spent["wall"] += now[0] - self._since[0]
        spent["cpu"] += now[1] - self._since[1]
        self._since = now

    def switch(self, phase: str) -> None:
        """Charge the time from now on to another phase."""
        self._collect()
        self._phase = phase

    def start(self) -> None:
        """Start the clock."""
        self._since = (time.perf_counter(), time.process_time())

    def stop(self) -> None:
        """Stop the clock."""
        self._collect()
        self._since = None

    @property
    def wall(self) -> float:
        """Wall seconds so far, summed over phases."""
        self._collect()
        return sum(spent["wall"] for spent in self._seconds.values())

    def by_phase(self) -> Seconds:
        """Return the wall and CPU seconds of each phase (a copy)."""
        self._collect()
        return {phase: dict(spent) for phase, spent in self._seconds.items()}

    def restore(self, seconds: Mapping[str, Mapping[str, float]]) -> None:
        """Restore the times that `by_phase` returned."""
        self._seconds = {phase: dict(spent) for phase, spent in seconds.items()}
