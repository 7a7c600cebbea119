"""Anomalies: numerical failures of a run. They are counted and logged, and too many of them end the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["KINDS", "Anomalies", "Kind", "TooManyAnomalies"]


@dataclass(frozen=True)
class Kind:
    """One kind of anomaly and the rate at which it ends a run.

    Attributes
    ----------
    meaning
        What failed and how it is handled.
    limit
        Largest acceptable fraction of the occasions; with 1, the kind never ends a run.
    at_least
        Number of occasions before the limit applies.
    """

    meaning: str
    limit: float = 0.5
    at_least: int = 20


KINDS = {
    "nonfinite_energy": Kind("non-finite energies: set to +inf, which gives the configuration no weight", 0.5, 1000),
    "nonfinite_gradient": Kind("non-finite gradients at finite energies: set to zero", 0.5, 1000),
    "diverged_walker": Kind(
        "blocks of steps in which a walker's position or energy became non-finite: the walker is restored to its last "
        "valid state and the block is discarded",
        0.05,
        200,
    ),
    "outside_state_space": Kind(
        "samples of a simulation outside the state space (`Coordinates.in_state_space`): they have no weight", 0.2, 100
    ),
    "skipped_step": Kind("training steps with a non-finite loss or gradient: skipped", 0.5, 20),
    # an untrained flow often samples impossible configurations, so the limit is high
    "unusable_sample": Kind("non-finite samples and labels: left out of the fit", 0.95, 1000),
    "empty_batch": Kind("batches without a usable sample: skipped", 0.9, 100),
    # never ends a run, because early weights of any flow are dominated; methods warn where an estimate depends on them
    "dominant_weight": Kind(
        "sets of importance weights dominated by one sample, which has more than half of the total", 1.0, 20
    ),
    "collapsed_ensemble": Kind(
        "ensembles whose members agree everywhere and give no uncertainty: refitted, or the last valid fit is restored",
        0.5,
        4,
    ),
}


class TooManyAnomalies(Exception):
    """The numerical failures exceed their limit, so the result cannot be trusted."""


class Anomalies:
    """Counts of anomalies by kind, each with its number of occasions.

    Counts may be tensors. They are read from the device only when they are needed.
    """

    def __init__(self) -> None:
        self._counts: dict[str, list[int | torch.Tensor]] = {}
        self._logged: dict[str, int] = {}

    def add(self, kind: str, count: int | torch.Tensor, occasions: int) -> None:
        """Add anomalies of a kind (one of `KINDS`, or defined by a method) and the number of occasions."""
        entry = self._counts.setdefault(kind, [0, 0])
        entry[0] = entry[0] + count
        entry[1] = entry[1] + occasions

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return anomalies and occasions of each kind that has occurred."""
        found = {kind: (int(count), int(occasions)) for kind, (count, occasions) in self._counts.items()}
        return {kind: pair for kind, pair in found.items() if pair[0]}

    def new_lines(self) -> list[str]:
        """Return log lines for what has occurred since the last call."""
        lines = []
        for kind, (count, occasions) in self.counts().items():
            new = count - self._logged.get(kind, 0)
            if new > 0:
                meaning = KINDS[kind].meaning if kind in KINDS else "counted by the method"
                lines.append(f"{new:,} more {kind} ({count:,} of {occasions:,}; {meaning})")
                self._logged[kind] = count
        return lines

    def check(self) -> None:
        """Check the counts against the limits.

        Raises
        ------
        TooManyAnomalies
            If a kind exceeds its limit.
        """
        for name, (count, occasions) in self.counts().items():
            kind = KINDS.get(name, Kind("counted by the method"))
            if occasions >= kind.at_least and count > kind.limit * occasions:
                raise TooManyAnomalies(
                    f"too many {name}: {count:,} of {occasions:,}, limit {kind.limit:.0%} ({kind.meaning})"
                )

    def state_dict(self) -> dict[str, list[int]]:
        """Return all counts."""
        return {kind: [int(count), int(occasions)] for kind, (count, occasions) in self._counts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the counts that `state_dict` returned."""
        self._counts = {str(kind): [int(count), int(occasions)] for kind, (count, occasions) in state.items()}
        self._logged = {kind: count for kind, (count, _) in self.counts().items()}
