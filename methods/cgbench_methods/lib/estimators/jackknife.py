"""A Fourier fit to a weighted histogram of independent groups of samples, with errors from a jackknife over groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import Map
from cgbench.contracts.pmf import PMF
from cgbench_methods.lib.estimators.fourier_fit import fit, fit_likeliest

__all__ = ["Fitted", "facts_of_maps", "jackknife_fit"]

Array = NDArray[np.float64]


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
    cvs: CollectiveVariables, groups: Array, visited: Array, orders: Sequence[int], rest: Callable[[int], Array]
) -> Fitted:
    """Fit ``ln p``; the order is chosen by the likelihood of each half of the groups under the fit to the other.

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
    """
    halves = groups[::2].sum(0), groups[1::2].sum(0)
    best, scores = fit_likeliest(cvs, halves, visited, orders)
    held_out = scores.get(best.order, math.inf)
    probability = best.probability()
    facts: dict[str, Any] = {"fourier_order": best.order}
    without = []
    for group in range(len(groups)):
        if groups[group].sum() > 0 and groups.sum() > groups[group].sum():
            without.append(-np.log(fit(cvs, rest(group), visited, best.order, best).probability()))
    if len(without) < 2:  # the jackknife needs two
        return Fitted(PMF(cvs, probability), facts, held_out)
    # the constant of each free energy is fixed by its mean over the population
    aligned = [energy - (probability * energy).sum() for energy in without]
    std = np.sqrt((len(without) - 1) * np.var(aligned, axis=0))
    facts["expected_kld"] = 0.5 * float((probability * std**2).sum())
    return Fitted(PMF(cvs, probability, std), facts, held_out)


def facts_of_maps(maps: Sequence[Map], fitted: Sequence[Fitted]) -> dict[str, Any]:
    """Return the facts about the estimate of each map, and the mean of their expected forward KLD."""
    if len(maps) == 1:
        return dict(fitted[0].facts)
    facts: dict[str, Any] = {"maps": {one.name: part.facts for one, part in zip(maps, fitted, strict=True)}}
    expected = [part.facts["expected_kld"] for part in fitted if "expected_kld" in part.facts]
    return facts | ({"expected_kld": float(np.mean(expected))} if expected else {})
