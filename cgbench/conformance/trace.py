"""What a run under check left behind, and how a check says that a promise is not kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgbench.conformance.counter import EnergyCounter
from cgbench.conformance.surroundings import Surroundings
from cgbench.running.record import Record

__all__ = ["Failure", "Moment", "RunFailed", "Trace", "Yielded"]


class Failure(Exception):
    """A promise that is not kept: what was found, and what would be right.

    Parameters
    ----------
    message
        For one line.
    log
        More for whoever wants it, a traceback for one.
    """

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class RunFailed(Failure):
    """The run that a check looks at came to no good end."""


@dataclass(frozen=True)
class Moment:
    """One estimate of a run: evaluations by the ledger and beneath the gate, and the probabilities."""

    charged: int
    counted: int
    probability: NDArray[np.float64]


@dataclass
class Trace:
    """What a run left.

    Attributes
    ----------
    folder
        The run's.
    counter
        What was counted beneath the gate.
    around
        What the run changed outside its folder.
    moments
        Its estimates, those before an interruption left out.
    record
        None if it was killed.
    started_at
        Evaluations on the ledger when it started; None if it started from nothing.
    """

    folder: Path
    counter: EnergyCounter
    around: Surroundings
    moments: list[Moment] = field(default_factory=list)
    record: Record | None = None
    started_at: int | None = None

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
        """Rows of the curve and of the auxiliary estimates, wall times left out."""
        rows: list[tuple[str, ...]] = []
        for name in ("curve.csv", "side_estimates.csv"):
            path = self.folder / name
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            table = [line.split(",") for line in lines]
            wall = table[0].index("wall_s") if table and "wall_s" in table[0] else -1
            rows += [tuple(cell for column, cell in enumerate(row) if column != wall) for row in table]
        return rows


@dataclass(frozen=True)
class Yielded:
    """What a method returned at one of its estimates, as it is: nothing of it was checked yet."""

    estimate: Any
    state: Any
    diagnostics: Any
    auxiliary: Any
    extra: Any
