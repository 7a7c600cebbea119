"""What a check knows about a run: its files, its estimates, its evaluations and its side effects."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgbench.conformance.counter import EnergyCounter
from cgbench.conformance.side_effects import SideEffects
from cgbench.contracts.maps import Estimate
from cgbench.running.record import Record

__all__ = ["MethodOutput", "ObservedEstimate", "ObservedRun", "estimate_numbers"]


@dataclass(frozen=True)
class ObservedEstimate:
    """One estimate of a run: evaluations in the ledger, evaluations counted independently, and all probabilities."""

    charged: int
    counted: int
    probability: NDArray[np.float64]


def estimate_numbers(estimate: Estimate) -> NDArray[np.float64]:
    """Return the probabilities of all maps and the populations of all states, ``[values]``."""
    populations = np.array(list((estimate.populations or {}).values()), dtype=np.float64)
    return np.concatenate([*(pmf.probability.ravel() for pmf in estimate.pmfs), populations])


@dataclass
class ObservedRun:
    """A run under check.

    Attributes
    ----------
    folder
        Folder of the run.
    counter
        Independent counter of energy evaluations.
    side_effects
        What the run changed outside its folder.
    estimates
        Estimates made since the run was started or resumed.
    record
        None if the run was killed.
    resumed_at
        Evaluations in the ledger when the run was resumed; None if it started from the beginning.
    """

    folder: Path
    counter: EnergyCounter
    side_effects: SideEffects
    estimates: list[ObservedEstimate] = field(default_factory=list)
    record: Record | None = None
    resumed_at: int | None = None

    @property
    def ended(self) -> Record:
        """The record of a run that was not killed."""
        assert self.record is not None
        return self.record

    @property
    def pmf(self) -> bytes | None:
        """Bytes of ``pmf.npz``."""
        path = self.folder / "pmf.npz"
        return path.read_bytes() if path.exists() else None

    @property
    def curve(self) -> list[tuple[str, ...]]:
        """Rows of the curve and of the auxiliary estimates, without times."""
        rows: list[tuple[str, ...]] = []
        for name in ("curve.csv", "side_estimates.csv"):
            path = self.folder / name
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            table = [line.split(",") for line in lines]
            times = [column for column, name in enumerate(table[0] if table else []) if name in ("wall_s", "cpu_s")]
            rows += [tuple(cell for column, cell in enumerate(row) if column not in times) for row in table]
        return rows


@dataclass(frozen=True)
class MethodOutput:
    """Everything a method returned at one estimate, not yet checked."""

    estimate: Any
    state: Any
    diagnostics: Any
    auxiliary: Any
    extra: Any
