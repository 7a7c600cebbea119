"""Counts of how often walkers cross the domain of each collective variable (CV)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables

__all__ = ["Visits"]

Array = NDArray[np.float64]
FEW_TRIPS = 0.5  # round trips per walker along a biased CV below which a warning says so


class Visits:
    """Counts how often walkers go back and forth along each CV between two parts of its domain.

    Each part is a quarter of the domain: around the middle of each half of a periodic CV, at the ends of others.

    Parameters
    ----------
    cvs
        The domain.
    walkers
        Number of walkers.
    """

    def __init__(self, cvs: CollectiveVariables, walkers: int) -> None:
        self.cvs = cvs
        self.last = np.zeros((walkers, len(cvs)), dtype=np.int64)
        self.changes = np.zeros((walkers, len(cvs)), dtype=np.int64)

    def note(self, s: Array) -> None:
        """Add the walkers' collective variables ``[walkers, cvs]``."""
        lower, upper = np.array(self.cvs.lower), np.array(self.cvs.upper)
        place = (self.cvs.wrap(s) - lower) / (upper - lower)
        shift = np.where(self.cvs.periodic, 0.125, 0.0)
        first = (place >= shift) & (place < shift + 0.25)
        second = (place >= 0.75 - shift) & (place < 1.0 - shift)
        now = np.where(first, 1, np.where(second, 2, self.last))
        self.changes += (now != self.last) & (self.last > 0)
        self.last = now

    def round_trips(self) -> dict[str, float]:
        """Mean number of round trips of a walker along each CV."""
        return {name: float(mean) / 2 for name, mean in zip(self.cvs.names, self.changes.mean(0), strict=True)}

    def warnings(self, names: Sequence[str]) -> list[str]:
        """Return a warning if walkers make fewer than 0.5 round trips along one of the CVs called `names`."""
        trips = self.round_trips()
        slow = [f"{name} {trips[name]:.2g}" for name in names if trips[name] < FEW_TRIPS]
        return [f"few round trips per walker: {', '.join(slow)}"] if slow else []

    def state_dict(self) -> dict[str, Any]:
        """Return the last part that each walker visited, and its changes of part."""
        return {"last": torch.from_numpy(self.last), "changes": torch.from_numpy(self.changes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.last, self.changes = state["last"].numpy().copy(), state["changes"].numpy().copy()
