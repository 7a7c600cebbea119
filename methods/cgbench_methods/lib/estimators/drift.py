"""Drift: what two halves of a simulation in time say about its free energies, beyond their scatter.

Walkers that start alike have an error in common until they have forgotten their start. No scatter between groups of
walkers shows it, but a change in time does. With the smoothed histograms h_1 and h_2 of the two halves,

    D = ln h_1 - ln h_2,

with its variance V by a jackknife over groups. If the start has been forgotten, D is zero on average. If it is not, the
whole simulation is off by D/2 where the memory is short, and by D or more where it is long: the square of what D
exceeds its scatter by is a part of the squared error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench_methods.lib.estimators.jackknife import Fitted, jackknife_variance, student_factor

__all__ = ["Drift", "drift", "with_drift"]

Array = NDArray[np.float64]
WIDTH = 0.06  # of the kernel that smooths the histograms, as a fraction of each CV's domain
SIGNIFICANT = 3.0  # mean square of D over its mean variance from which on D is not taken for scatter


@dataclass(frozen=True)
class Drift:
    """The drift of free energies.

    Attributes
    ----------
    ratio
        Mean square of D over the mean of its variance, both over the density: about 1 without drift.
    variance
        The part of the squared error of free energies, ``max(D^2 - V, 0)``, of shape ``cvs.bins`` in kT^2; zero if the
        ratio is not significant, and where one of the halves has no sample nearby.
    """

    ratio: float
    variance: Array


def drift(cvs: CollectiveVariables, halves: Array) -> Drift:
    """Return the drift between two halves of a simulation.

    Parameters
    ----------
    cvs
        The grid.
    halves
        Weighted histograms of each half of each independent group of walkers, ``[2, groups, *bins]``. A half to which
        no group, or only one, has contributed says nothing: the ratio is nan.
    """
    used = (halves.sum(axis=tuple(range(2, halves.ndim))) > 0).all(axis=0)
    groups = int(used.sum())
    if groups < 2:
        return Drift(float("nan"), np.zeros(cvs.bins))
    modes = ["wrap" if periodic else "reflect" for periodic in cvs.periodic]
    sigma = [WIDTH * bins for bins in cvs.bins]
    smooth = np.array([[gaussian_filter(one, sigma, mode=modes) for one in half[used]] for half in halves])
    rest = smooth.sum(1, keepdims=True) - smooth  # without each group
    known = (smooth.sum(1) > 0).all(0) & (rest > 1e-12 * smooth.sum(1, keepdims=True)).all((0, 1))
    probability = np.where(known, smooth.sum((0, 1)), 0.0)
    if not known.any():
        return Drift(float("nan"), np.zeros(cvs.bins))
    probability /= probability.sum()

    def difference(pair: Array) -> Array:
        logs = np.log(np.where(known, pair, 1.0))
        found = logs[0] - logs[1]
        return np.asarray(found - (probability * found).sum())

    change = difference(smooth.sum(1))
    without = [difference(rest[:, group]) for group in range(groups)]
    scatter = jackknife_variance(without, probability) * student_factor(groups) ** 2
    ratio = float((probability * change**2).sum() / max((probability * scatter).sum(), 1e-300))
    excess = np.where(known, np.maximum(change**2 - scatter, 0.0), 0.0)
    return Drift(ratio, excess if ratio > SIGNIFICANT else np.zeros(cvs.bins))


def with_drift(fitted: Fitted, halves: Array) -> Fitted:
    """Return a fit whose standard errors contain the drift; ``drift`` in its facts is the ratio.

    Parameters
    ----------
    fitted
        A fit to all samples; one without standard errors is returned as it is.
    halves
        As for `drift`.
    """
    pmf = fitted.pmf
    if pmf.free_energy_std is None:
        return fitted
    found = drift(pmf.cvs, halves)
    std = np.sqrt(pmf.free_energy_std**2 + found.variance)
    facts = fitted.facts | {"drift": found.ratio, "expected_kld": 0.5 * float((pmf.probability * std**2).sum())}
    return Fitted(PMF(pmf.cvs, pmf.probability, std), facts, fitted.held_out)
