"""Reweighted histograms of groups of walkers under a frozen bias, and the PMF that follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench_methods.lib.estimators.fourier_fit import fit, fit_likeliest
from cgbench_methods.lib.estimators.importance import kish

__all__ = ["Production", "Visits"]

Array = NDArray[np.float64]
LARGEST = 600.0  # kT; its Boltzmann factor is still a normal float64


class Visits:
    """How often walkers go along each CV from one part of its domain to another and back.

    The parts lie around the first and the last quarter of the domain: a quarter of it each, in the middle of
    each half of a periodic CV, and at the ends of another.

    Parameters
    ----------
    cvs
        The domain.
    walkers
        How many.
    """

    def __init__(self, cvs: CollectiveVariables, walkers: int) -> None:
        self.cvs = cvs
        self.last = np.zeros((walkers, len(cvs)), dtype=np.int64)
        self.changes = np.zeros((walkers, len(cvs)), dtype=np.int64)

    def note(self, s: Array) -> None:
        """Take the walkers' collective variables ``[walkers, cvs]``."""
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

    def state_dict(self) -> dict[str, Any]:
        """Where each walker was last, and its changes."""
        return {"last": torch.from_numpy(self.last), "changes": torch.from_numpy(self.changes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.last, self.changes = state["last"].numpy().copy(), state["changes"].numpy().copy()


class Production:
    """Samples under a frozen bias, each with the weight ``exp(bias)``.

    Groups that are kept apart are walkers where there are enough, and alternating stretches of time otherwise.

    Parameters
    ----------
    cvs
        The grid.
    bias
        Bias at the bin centres in kT, of shape ``cvs.bins``.
    walkers
        How many.
    groups
        How many are kept apart.
    """

    def __init__(self, cvs: CollectiveVariables, bias: Array, walkers: int, groups: int) -> None:
        self.cvs = cvs
        self.offset = float(bias.max())
        self.exposure = np.exp(np.minimum(self.offset - bias, LARGEST))
        self.groups = groups
        self.group = np.arange(walkers) * groups // max(walkers, groups)
        self.in_time = walkers < groups
        self.histograms = np.zeros((self.groups, int(np.prod(cvs.bins))))
        self.moments = np.zeros(3)  # number, sum and sum of squares of the weights
        self.visits = Visits(cvs, walkers)
        self.order: int | None = None

    def note(self, s: Array, bias: Array, stretch: int = 0) -> None:
        """Count walkers at ``s [walkers, cvs]`` under the bias ``[walkers]``, those outside the domain, or lost, not.

        Parameters
        ----------
        stretch
            Number of the stretch of time.
        """
        weights, index = np.exp(bias - self.offset), self.cvs.bin_index(s)
        inside = (index >= 0) & np.isfinite(weights)
        group = (self.group + stretch) % self.groups if self.in_time else self.group
        np.add.at(self.histograms, (group[inside], index[inside]), weights[inside])
        self.moments += inside.sum(), weights[inside].sum(), (weights[inside] ** 2).sum()
        self.visits.note(s)

    @property
    def effective_sample_size(self) -> float:
        """Of the weights, ``(sum w)^2 / sum w^2``; correlation in time is not in it."""
        return float(kish(self.moments[1], self.moments[2]))

    @property
    def coverage(self) -> float:
        """The part of all bins that have been visited."""
        return float((self.histograms.sum(0) > 0).mean())

    def estimate(self, orders: Sequence[int]) -> PMF:
        """Smooth PMF, with standard errors from leaving out one group at a time (jackknife)."""
        parts = self.histograms.reshape(self.groups, *self.cvs.bins)
        halves = parts[::2].sum(0), parts[1::2].sum(0)
        best, _ = fit_likeliest(self.cvs, halves, self.exposure, orders)
        self.order = best.order
        whole, used = parts.sum(0), [part for part in parts if part.sum() > 0]
        count = len(used)
        if count < 2:  # nothing is left when the only one is left out
            return PMF(self.cvs, best.probability())
        without = [-np.log(fit(self.cvs, whole - part, self.exposure, best.order, best).probability()) for part in used]
        std = np.sqrt((count - 1) * np.var(without, axis=0))
        return PMF(self.cvs, best.probability(), std)

    def state_dict(self) -> dict[str, Any]:
        """Histograms, weights and visits; the bias belongs to its owner."""
        return {
            "histograms": torch.from_numpy(self.histograms),
            "moments": torch.from_numpy(self.moments),
            "visits": self.visits.state_dict(),
            "order": self.order,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.histograms, self.moments = state["histograms"].numpy().copy(), state["moments"].numpy().copy()
        self.visits.load_state_dict(state["visits"])
        self.order = None if state["order"] is None else int(state["order"])
