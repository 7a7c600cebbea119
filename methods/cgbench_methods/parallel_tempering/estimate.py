"""The PMF of some collective variables from samples of all temperatures: weights, a histogram, and a smooth fit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import States
from cgbench_methods.lib.estimators.drift import with_drift
from cgbench_methods.lib.estimators.exposure import exposure
from cgbench_methods.lib.estimators.importance import kish
from cgbench_methods.lib.estimators.jackknife import Fitted, jackknife_fit
from cgbench_methods.parallel_tempering.reweighting import Reweighting, reweighting

__all__ = ["Tempered"]

Array = NDArray[np.float64]
RANGE = 10.0  # kT; largest logarithm of the exposure above its minimum


class Tempered:
    """Samples of all temperatures and their weights at the lowest; serves any subset of the collective variables.

    Parameters
    ----------
    samples
        Reduced energies, then collective variables, ``[samples, ladders, temperatures, 1 + cvs]``; NaN where unusable.
    relative
        Temperatures relative to the lowest, ``[temperatures]``.
    groups
        Number of groups of ladders; ladders are independent, hence groups are.
    mbar_samples
        Largest number of samples that MBAR is solved with.

    Raises
    ------
    ValueError
        If no sample is usable, or MBAR finds no finite free energies.
    """

    def __init__(self, samples: torch.Tensor, relative: Array, groups: int, mbar_samples: int) -> None:
        self.samples, self.relative, self.groups, self.mbar_samples = samples, relative, groups, mbar_samples
        ladders = samples.shape[1]
        self.group = np.arange(ladders) * groups // ladders
        self._energies = samples[..., 0]
        self.weighting = reweighting(self._energies, relative, mbar_samples)
        weights = self._weights(self.weighting, self._energies)
        self.usable = int((weights > 0).sum())
        self.effective_sample_size = float(kish(weights.sum(), (weights**2).sum()))
        self._all = weights

    @staticmethod
    def _weights(weighting: Reweighting, energies: torch.Tensor) -> Array:
        """Return weights relative to the largest, in the shape of the energies; zero for samples that are unusable."""
        log = weighting.log_weights(energies.double().numpy())
        return np.exp(np.where(np.isfinite(log), log, -np.inf) - np.nanmax(log))

    def combine(self, axes: Sequence[int], cvs: CollectiveVariables, orders: Sequence[int]) -> Fitted:
        """Estimate the PMF of the collective variables number `axes`, whose domain and grid are `cvs`.

        The order of the fit is chosen by the likelihood of each half of the groups under the fit to the other. Standard
        errors are a jackknife over groups: each part without one group has its own free energies and weights. They
        contain the drift between the two halves of the samples in time.

        Raises
        ------
        ValueError
            If no sample is within the domain.
        """
        columns = [1 + axis for axis in axes]
        bins = cvs.bin_index(self.samples[..., columns].reshape(-1, len(columns)).double().numpy())
        bins = bins.reshape(self._all.shape)
        total = math.prod(cvs.bins)
        parts = self._histograms(self._all, bins, total).reshape(self.groups, *cvs.bins)
        if parts.sum() <= 0:
            raise ValueError("no sample is within the domain of the collective variables")
        squares = self._histograms(self._all**2, bins, total).sum(0).reshape(cvs.bins)
        visits = np.bincount(bins[bins >= 0], minlength=total).reshape(cvs.bins)
        visited = exposure(cvs, parts.sum(0), squares, visits.astype(np.float64))

        def rest(group: int) -> Array:
            return self._histogram_without(group, bins, total).reshape(cvs.bins)

        # where hot walkers alone have been, many tiny weights would count as many visits, and the fit would follow them
        visited = np.minimum(visited, math.exp(RANGE) * visited.min())
        half = len(bins) // 2
        halves = [self._histograms(self._all[part], bins[part], total) for part in (slice(half), slice(half, None))]
        found = with_drift(
            jackknife_fit(cvs, parts, visited, orders, rest), np.reshape(halves, (2, self.groups, *cvs.bins))
        )
        return Fitted(found.pmf, found.facts | {"visited_part_of_the_grid": float((visits > 0).mean())})

    def populations(self, states: States) -> dict[str, float]:
        """Return the population of each state by name."""
        s = self.samples[..., 1:].reshape(-1, self.samples.shape[-1] - 1).double().numpy()
        sums = states.counts(s, self._all.ravel())
        return dict(zip(states.names, (sums / self._all.sum()).tolist(), strict=True))

    def _histograms(self, weights: Array, bins: NDArray[np.int64], total: int) -> Array:
        """Sum the weights in each bin for each group, ``[groups, total]``."""
        index = self.group[None, :, None] * total + bins
        inside = bins >= 0
        sums = np.bincount(index[inside], weights[inside], self.groups * total)
        return np.asarray(sums.reshape(self.groups, total), dtype=np.float64)

    def _histogram_without(self, group: int, bins: NDArray[np.int64], total: int) -> Array:
        kept = self.group != group
        energies = self._energies[:, torch.from_numpy(kept)]
        own = reweighting(energies, self.relative, self.mbar_samples, self.weighting)
        weights = self._weights(own, energies)
        inside = bins[:, kept] >= 0
        return np.asarray(np.bincount(bins[:, kept][inside], weights[inside], total), dtype=np.float64)
