"""PMFs and populations from samples with weights ``exp(bias)``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.maps import Map, States
from cgbench.contracts.pmf import PMF
from cgbench_methods.lib.estimators.importance import kish
from cgbench_methods.lib.estimators.weighted import weighted_pmf

__all__ = ["Reweighted"]

Array = NDArray[np.float64]
STRETCHES = 8  # stretches of time per group, if there are fewer walkers than groups


class Reweighted:
    """Samples with the weight ``exp(bias)``; serves any subset of the collective variables.

    Groups are sets of walkers if there are enough walkers, alternating stretches of time otherwise.

    Parameters
    ----------
    samples
        Bias in kT, then collective variables, ``[samples, walkers, 1 + cvs]``; NaN where unusable.
    groups
        Number of groups.

    Raises
    ------
    ValueError
        If no sample is usable.
    """

    def __init__(self, samples: torch.Tensor, groups: int) -> None:
        values = samples.double().numpy()
        usable = np.isfinite(values).all(-1)
        if not usable.any():
            raise ValueError(
                "no sample is usable: every walker diverged (diverged_walker), left the state space "
                "(outside_state_space) or has no finite collective variables"
            )
        times, walkers = usable.shape
        group = np.broadcast_to(np.arange(walkers) * groups // max(walkers, groups), usable.shape)
        if walkers < groups:
            group = group + (np.arange(times) * STRETCHES * groups // times)[:, None]
        self.groups = groups
        self._group = (group % groups)[usable]
        self._s = values[usable][:, 1:]
        bias = values[usable][:, 0]
        self.weights = np.exp(bias - bias.max())
        self.number = int(usable.sum())
        self.effective_sample_size = float(kish(self.weights.sum(), (self.weights**2).sum()))

    def pmf(self, one: Map, orders: Sequence[int]) -> tuple[PMF, dict[str, Any]]:
        """Fit the PMF of a map, with standard errors by the jackknife over groups; see `weighted_pmf`."""
        cvs = one.cvs
        bins = cvs.bin_index(one.select(self._s))
        inside, total = bins >= 0, math.prod(cvs.bins)
        bins, weights = bins[inside], self.weights[inside]
        parts = np.bincount(self._group[inside] * total + bins, weights, self.groups * total).astype(np.float64)
        squares = np.bincount(bins, weights**2, total).astype(np.float64).reshape(cvs.bins)
        visits = np.bincount(bins, minlength=total).reshape(cvs.bins).astype(np.float64)
        return weighted_pmf(cvs, parts.reshape(self.groups, *cvs.bins), squares, visits, orders)

    def populations(self, states: States) -> dict[str, float]:
        """Return the population of each state by name."""
        sums = states.counts(self._s, self.weights)
        return dict(zip(states.names, (sums / self.weights.sum()).tolist(), strict=True))
