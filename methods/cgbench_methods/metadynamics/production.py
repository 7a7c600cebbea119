"""Reweighted histograms of groups of walkers under a frozen bias, and the PMF fitted to them.

A sample under the bias V has the weight ``exp(V)``. The histograms hold sums of weights, one per group; the standard
error of the PMF is that of the jackknife over groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import LARGEST_FREE_ENERGY, PMF
from cgbench_methods.lib.estimators.importance import kish
from cgbench_methods.lib.estimators.jackknife import jackknife_fit
from cgbench_methods.lib.sampling.visits import Visits

__all__ = ["Production"]

Array = NDArray[np.float64]


class Production:
    """Samples under a frozen bias, each with the weight ``exp(bias)``, in separate groups.

    Groups are sets of walkers if there are enough walkers, alternating stretches of time otherwise.

    Parameters
    ----------
    cvs
        The grid.
    bias
        Bias at the bin centres in kT, of shape ``cvs.bins``.
    walkers
        Number of walkers.
    groups
        Number of groups.
    """

    def __init__(self, cvs: CollectiveVariables, bias: Array, walkers: int, groups: int) -> None:
        self.cvs = cvs
        self.offset = float(bias.max())
        self.exposure = np.exp(np.minimum(self.offset - bias, LARGEST_FREE_ENERGY))
        self.groups = groups
        self.group = np.arange(walkers) * groups // max(walkers, groups)
        self.in_time = walkers < groups
        self.histograms = np.zeros((self.groups, int(np.prod(cvs.bins))))
        self.moments = np.zeros(3)  # number, sum and sum of squares of the weights
        self.visits = Visits(cvs, walkers)
        self.order: int | None = None

    def note(self, s: Array, bias: Array, stretch: int = 0) -> None:
        """Add samples of all walkers; samples outside the domain, or not finite, are ignored.

        Parameters
        ----------
        s, bias
            Collective variables ``[walkers, cvs]`` and bias ``[walkers]`` in kT.
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
        """Kish's effective sample size of the weights; correlation in time is ignored."""
        return float(kish(self.moments[1], self.moments[2]))

    @property
    def coverage(self) -> float:
        """Fraction of the bins that have been visited."""
        return float((self.histograms.sum(0) > 0).mean())

    def estimate(self, orders: Sequence[int]) -> PMF:
        """Fit a smooth PMF, with standard errors; see `cgbench_methods.lib.estimators.jackknife`."""
        parts = self.histograms.reshape(self.groups, *self.cvs.bins)
        whole = parts.sum(0)
        found = jackknife_fit(self.cvs, parts, self.exposure, orders, lambda group: np.asarray(whole - parts[group]))
        self.order = found.facts["fourier_order"]
        return found.pmf

    def state_dict(self) -> dict[str, Any]:
        """Return histograms, sums of weights and visits; the owner of the bias saves it."""
        return {
            "histograms": torch.from_numpy(self.histograms),
            "moments": torch.from_numpy(self.moments),
            "visits": self.visits.state_dict(),
            "order": self.order,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.histograms, self.moments = state["histograms"].numpy().copy(), state["moments"].numpy().copy()
        self.visits.load_state_dict(state["visits"])
        self.order = None if state["order"] is None else int(state["order"])
