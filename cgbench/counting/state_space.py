"""How many configurations of a run were outside the state space of the system."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["LARGEST_SHARE", "StateSpaceCounts"]

LARGEST_SHARE = 0.01  # share of the samples outside above which a result is not reliable


class StateSpaceCounts:
    """Counts of samples and proposals, and of those outside the state space.

    Samples come from a simulation, which should not leave the state space. Proposals are configurations that a method
    builds from coordinates, such as samples of a flow. Proposals outside are rejected: they have no weight, which is
    exact, so they say nothing about the result.

    Counts may be tensors. They are read from the device only when they are needed.
    """

    NAMES = ("samples", "outside", "proposed", "rejected")

    def __init__(self) -> None:
        self._counts: dict[str, int | torch.Tensor] = dict.fromkeys(self.NAMES, 0)

    def add_samples(self, samples: int, outside: int | torch.Tensor) -> None:
        """Add samples of a simulation, and the number of them outside."""
        self._counts["samples"] += samples
        self._counts["outside"] = self._counts["outside"] + outside

    def add_proposals(self, proposed: int, rejected: int | torch.Tensor) -> None:
        """Add proposals, and the number of them that were rejected."""
        self._counts["proposed"] += proposed
        self._counts["rejected"] = self._counts["rejected"] + rejected

    def counts(self) -> dict[str, int]:
        """Return ``samples``, ``outside``, ``proposed`` and ``rejected``."""
        return {name: int(count) for name, count in self._counts.items()}

    def problem(self) -> str | None:
        """Return why the result is not reliable; None if few samples are outside."""
        counts = self.counts()
        outside, samples = counts["outside"], counts["samples"]
        if outside <= LARGEST_SHARE * samples:
            return None
        return (
            f"{outside:,} of {samples:,} samples ({outside / samples:.0%}) are outside the state space: they have no "
            "weight, but the PMF is not reliable"
        )

    def state_dict(self) -> dict[str, int]:
        """Return all counts."""
        return self.counts()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the counts that `state_dict` returned; 0 where a count is missing."""
        self._counts = {name: int(state.get(name, 0)) for name in self.NAMES}
