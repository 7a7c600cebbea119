"""A Fourier fit to a weighted histogram of independent groups of samples, with its standard errors.

The squared error has three parts: the sampling variance by a jackknife over groups, with Student's factor for their
number; what the truncation of the series leaves out; and the bias by the penalty on roughness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import Map
from cgbench.contracts.pmf import PMF
from cgbench_methods.lib.estimators.fourier_fit import STIFFNESS, Curvature, FourierFit, fit, fit_likeliest

__all__ = [
    "Fitted",
    "SystematicVariance",
    "facts_of_maps",
    "jackknife_fit",
    "jackknife_variance",
    "standard_error",
    "student_factor",
    "variance_of_fit",
    "warnings_of_errors",
]

Array = NDArray[np.float64]
LARGEST_EXPECTED_KLD = 1e-2


@dataclass(frozen=True)
class Fitted:
    """A PMF and numbers for the record.

    Attributes
    ----------
    pmf
        The estimate, with the standard error of the free energy if there are two groups or more.
    facts
        Numbers for the record.
    held_out
        Sum of the KL divergences of each half of the groups from the fit to the other; infinite if a half is empty.
    """

    pmf: PMF
    facts: dict[str, Any] = field(default_factory=dict)
    held_out: float = math.inf


def jackknife_fit(
    cvs: CollectiveVariables,
    groups: Array,
    visited: Array,
    orders: Sequence[int],
    rest: Callable[[int], Array],
    offset: Array | None = None,
) -> Fitted:
    """Fit ``ln p``; the order is chosen by the likelihood of each half of the groups under the fit to the other.

    Standard errors are those of `standard_error`.

    Parameters
    ----------
    cvs
        Domain and grid.
    groups
        Weighted histograms of independent groups of samples, ``[groups, *bins]``.
    visited
        The exposure, of shape ``cvs.bins``; see `cgbench_methods.lib.estimators.exposure`.
    orders
        Candidate orders, increasing.
    rest
        Returns the histogram without one group. It is called for the groups that are not empty.
    offset
        A known part of ``ln p`` of shape ``cvs.bins``, as for `fit`.
    """
    halves = groups[::2].sum(0), groups[1::2].sum(0)
    best, scores = fit_likeliest(cvs, halves, visited, orders, offset=offset)
    held_out = scores.get(best.order, math.inf)
    probability = best.probability()
    facts: dict[str, Any] = {"fourier_order": best.order}
    without = []
    for group in range(len(groups)):
        if groups[group].sum() > 0 and groups.sum() > groups[group].sum():
            without.append(-np.log(fit(cvs, rest(group), visited, best.order, best, offset=offset).probability()))
    if len(without) < 2:  # the jackknife needs two
        return Fitted(PMF(cvs, probability), facts, held_out)
    used = groups[groups.sum(axis=tuple(range(1, groups.ndim))) > 0]
    shares = (used.sum(axis=tuple(range(1, groups.ndim)), keepdims=True)) / used.sum()
    sampling = jackknife_variance(without, probability)
    systematic = variance_of_fit(best, used * visited, shares * visited, orders)
    std = standard_error(sampling, systematic, len(without))
    facts["expected_kld"] = 0.5 * float((probability * std**2).sum())
    return Fitted(PMF(cvs, probability, std), facts, held_out)


def jackknife_variance(without: Sequence[Array], probability: Array) -> Array:
    """Return the variance of free energies from those without one group each, by the jackknife.

    Parameters
    ----------
    without
        Free energies in kT without each group, each of shape ``bins``.
    probability
        Probabilities of the estimate; the constant of each free energy is fixed by its mean over them.
    """
    aligned = [energy - (probability * energy).sum() for energy in without]
    return np.asarray((len(without) - 1) * np.var(aligned, axis=0))


@dataclass(frozen=True)
class SystematicVariance:
    """Parts of a fit's squared error that the scatter of groups at fixed order does not show.

    Attributes
    ----------
    truncation
        Sampling variance that the next candidate order would add. The order was chosen because its whole error is the
        smaller one; hence what it leaves out is, on average, not more than this.
    penalty
        Squared bias by the penalty, the larger one of the fit and of that at the next order; see
        `Curvature.bias_of_penalty`.
    """

    truncation: Array
    penalty: Array


def variance_of_fit(
    fitted: FourierFit, visits: Array, exposures: Array, orders: Sequence[int], stiffness: float = STIFFNESS
) -> SystematicVariance:
    """Return the systematic part of the squared error of a fit's free energies, of shape ``bins`` in kT^2.

    Parameters
    ----------
    fitted
        The fit to all groups.
    visits, exposures
        Effective visits and exposure of each group, ``[groups, *bins]``; groups are two at least.
    orders
        Candidate orders, increasing, the fit's among them. The last has no next one: nothing is added for truncation.
    stiffness
        That of the fit.
    """
    exposure, visited = exposures.sum(0), visits.sum(0)
    curvature = Curvature(fitted, exposure, stiffness)
    truncation = np.zeros(fitted.cvs.bins)
    bias = curvature.bias_of_penalty()
    higher = [order for order in orders if order > fitted.order]
    if higher:
        histogram = np.where(exposure > 0, visited / np.maximum(exposure, 1e-300), 0.0)
        further = fit(fitted.cvs, histogram, exposure, higher[0], fitted, stiffness, fitted.offset)
        next_one = Curvature(further, exposure, stiffness)
        added = next_one.variance_of_groups(visits, exposures) - curvature.variance_of_groups(visits, exposures)
        truncation = np.maximum(added, 0.0)
        bias = np.maximum(np.abs(bias), np.abs(next_one.bias_of_penalty()))
    return SystematicVariance(truncation, bias**2)


def standard_error(sampling: Array, systematic: SystematicVariance, groups: int) -> Array:
    """Return the standard error of free energies whose interval of plus and minus 1.96 of it covers 95 %.

    Variances from few groups are uncertain: Student's distribution replaces the normal one.

    Parameters
    ----------
    sampling
        Sampling variance from the scatter of groups.
    systematic
        The rest of the squared error.
    groups
        Number of independent groups.
    """
    return np.asarray(np.sqrt(student_factor(groups) ** 2 * (sampling + systematic.truncation) + systematic.penalty))


def student_factor(groups: int) -> float:
    """Return the half-width of the 95 % interval of Student's distribution over that of the normal distribution.

    Parameters
    ----------
    groups
        Number of independent groups that the standard error is of, two at least.
    """
    return float(student.ppf(0.975, groups - 1) / norm.ppf(0.975))


def facts_of_maps(maps: Sequence[Map], fitted: Sequence[Fitted]) -> dict[str, Any]:
    """Return the facts about the estimate of each map, and the mean of their expected forward KLD."""
    if len(maps) == 1:
        return dict(fitted[0].facts)
    facts: dict[str, Any] = {"maps": {one.name: part.facts for one, part in zip(maps, fitted, strict=True)}}
    expected = [part.facts["expected_kld"] for part in fitted if "expected_kld" in part.facts]
    return facts | ({"expected_kld": float(np.mean(expected))} if expected else {})


def warnings_of_errors(expected_kld: float | None, largest: float = LARGEST_EXPECTED_KLD) -> list[str]:
    """Return a warning if the forward KLD that the standard errors expect is too large; None if it is not known."""
    if expected_kld is None or expected_kld <= largest:
        return []
    return [f"too few samples: the expected forward KLD is {expected_kld:.1e}"]
