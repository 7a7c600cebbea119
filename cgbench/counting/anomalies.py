"""Numbers that go wrong in a run: counted, logged, and a reason to stop when there are too many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["KINDS", "Anomalies", "Kind", "TooManyAnomalies"]


@dataclass(frozen=True)
class Kind:
    """What one kind of incident is, and how often is too often.

    Attributes
    ----------
    meaning
        What happened and what is done about it.
    limit
        Largest share of the occasions; with 1, no number of them ends a run.
    at_least
        Occasions before the share is judged.
    """

    meaning: str
    limit: float = 0.5
    at_least: int = 20


KINDS = {
    "nonfinite_energy": Kind("energies that are not finite: taken as infinite, so that they have no weight", 0.5, 1000),
    "nonfinite_gradient": Kind("gradients that are not finite where the energy is: taken as zero", 0.5, 1000),
    "diverged_walker": Kind(
        "blocks of steps in which a walker's position or energy was not finite: it was put back to where it was sound, "
        "and nothing of the block was counted",
        0.05,
        200,
    ),
    "skipped_step": Kind("training steps without a finite loss or gradient: left out", 0.5, 20),
    # labels of an untrained flow are often infinite, where no sample is a molecule at all: only if hardly any is left
    "unusable_sample": Kind("labels and samples that are not finite: left out of the fit", 0.95, 1000),
    "empty_batch": Kind("batches of samples without a single usable one: nothing could be learnt", 0.9, 100),
    # no reason to stop: the first weights of any flow are like that; methods warn where an estimate rests on it
    "dominant_weight": Kind("sets of importance weights of which one holds more than half: truncated", 1.0, 20),
    "collapsed_ensemble": Kind(
        "ensembles whose members agree everywhere, so that they tell no uncertainty: fitted anew", 0.5, 4
    ),
}


class TooManyAnomalies(Exception):
    """So much went wrong that the result would not be worth having."""


class Anomalies:
    """Counts by kind, each out of so many occasions.

    Counts may be tensors: nothing waits for a device before somebody asks.
    """

    def __init__(self) -> None:
        self._counts: dict[str, list[int | torch.Tensor]] = {}
        self._logged: dict[str, int] = {}

    def add(self, kind: str, count: int | torch.Tensor, occasions: int) -> None:
        """Count anomalies of a kind (one of `KINDS`, or a method's own) out of so many occasions."""
        entry = self._counts.setdefault(kind, [0, 0])
        entry[0] = entry[0] + count
        entry[1] = entry[1] + occasions

    def counts(self) -> dict[str, tuple[int, int]]:
        """Anomalies and occasions of each kind that happened."""
        found = {kind: (int(count), int(occasions)) for kind, (count, occasions) in self._counts.items()}
        return {kind: pair for kind, pair in found.items() if pair[0]}

    def news(self) -> list[str]:
        """Lines for the log: what has happened since the last call."""
        lines = []
        for kind, (count, occasions) in self.counts().items():
            new = count - self._logged.get(kind, 0)
            if new > 0:
                meaning = KINDS[kind].meaning if kind in KINDS else "counted by the method"
                lines.append(f"{new:,} more {kind} ({count:,} of {occasions:,}; {meaning})")
                self._logged[kind] = count
        return lines

    def check(self) -> None:
        """Judge the counts.

        Raises
        ------
        TooManyAnomalies
            If a kind's share of its occasions is above its limit.
        """
        for name, (count, occasions) in self.counts().items():
            kind = KINDS.get(name, Kind("counted by the method"))
            if occasions >= kind.at_least and count > kind.limit * occasions:
                raise TooManyAnomalies(
                    f"{count:,} of {occasions:,} are too many {name}, at most {kind.limit:.0%} may be ({kind.meaning})"
                )

    def state_dict(self) -> dict[str, list[int]]:
        """All counts."""
        return {kind: [int(count), int(occasions)] for kind, (count, occasions) in self._counts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self._counts = {str(kind): [int(count), int(occasions)] for kind, (count, occasions) in state.items()}
        self._logged = {kind: count for kind, (count, _) in self.counts().items()}
