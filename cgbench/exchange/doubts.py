"""Readings of a file that would score much better: a usual mistake is then likely, and a warning says which.

The candidates are scored by the referee. They never change the score of the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from cgbench.contracts.pmf import PMF
from cgbench.exchange.axes import Points
from cgbench.exchange.binning import interpolate
from cgbench.scoring.referee import Referee

__all__ = ["covered_kld", "doubts"]

Array = NDArray[np.float64]
CLEARLY = 3.0  # a reading of the file is suggested if the forward KLD would be smaller by this factor
FOUND_OUT = 3.0  # noise floors; scores below are not doubted
SCALES = (0.2, 5.0)  # of free energies that are tried
LEAST_SCALE = 0.02  # relative deviation from 1 that is suggested


def covered_kld(referee: Referee, pmf: PMF) -> float:
    """Return the forward KLD within the covered bins: finite also where a PMF has empty bins."""
    found = referee.covered(pmf)
    return math.inf if found is None else found[1]


def doubts(referee: Referee, pmf: PMF) -> list[str]:
    """Say which other reading of a file would score much better: a usual mistake is then likely."""
    facts = referee.facts()
    if facts is None:
        return []
    stated = covered_kld(referee, pmf)
    floor = FOUND_OUT * float(facts["noise_floor"])
    if not stated > max(floor, 1e-6):
        return []
    others = [(covered_kld(referee, other), words) for other, words in _readings(pmf)]
    others.append(_rescaled(referee, pmf))
    best, words = min(others, key=lambda one: one[0])
    if best * CLEARLY > stated:
        return []
    return [f"the forward KLD would be {best:.2g} instead of {stated:.2g} {words}"]


def _readings(pmf: PMF) -> Iterator[tuple[PMF, str]]:
    """Yield the PMF with axes exchanged, mirrored, or shifted, each with what would have gone wrong."""
    cvs, p = pmf.cvs, pmf.probability
    domains = list(zip(cvs.lower, cvs.upper, cvs.bins, cvs.periodic, strict=True))
    if len(cvs) == 2 and domains[0] == domains[1]:
        yield PMF(cvs, p.T), f"with {cvs.names[0]} and {cvs.names[1]} exchanged: check the order of the axes (--axes)"
    for k, name in enumerate(cvs.names):
        yield PMF(cvs, np.flip(p, k)), f"with the sign of {name} changed: check its definition"
        if cvs.periodic[k]:
            half = np.roll(p, cvs.bins[k] // 2, k)
            yield PMF(cvs, half), f"with {name} shifted by half a period: check its range"
    if all(cvs.periodic):
        shifted = np.roll(p, [bins // 2 for bins in cvs.bins], tuple(range(len(cvs))))
        yield PMF(cvs, shifted), "with all CVs shifted by half a period: check their ranges"
    if (p > 0).all():
        for steps in np.ndindex(*(3,) * len(cvs)):
            shift = np.array(steps) - 1
            if shift.any():
                words = ", ".join(f"{n} {'-' if d < 0 else '+'}" for n, d in zip(cvs.names, shift, strict=True) if d)
                yield _shifted(pmf, 0.5 * shift), f"if all values were half a bin further ({words}): nodes or centres?"


def _shifted(pmf: PMF, bins: Array) -> PMF:
    """Return the PMF moved by fractions of a bin along each CV, interpolated by cubic splines."""
    cvs = pmf.cvs
    widths = [(cvs.upper[k] - cvs.lower[k]) / cvs.bins[k] for k in range(len(cvs))]
    points = tuple(Points(float(cvs.centers(k)[0]), widths[k], cvs.bins[k], cvs.periodic[k]) for k in range(len(cvs)))
    places = [cvs.centers(k) - bins[k] * widths[k] for k in range(len(cvs))]
    energy = interpolate(pmf.free_energy, points, cvs, places)
    return PMF(cvs, np.exp(-np.clip(energy - energy.min(), 0.0, 600.0)))


def _rescaled(referee: Referee, pmf: PMF) -> tuple[float, str]:
    """Return the lowest forward KLD with all free energies multiplied by a factor, and what it may mean."""

    def kld(logarithm: float) -> float:
        scaled = np.exp(-np.minimum(math.exp(logarithm) * pmf.free_energy, 600.0))
        return covered_kld(referee, PMF(pmf.cvs, np.where(pmf.probability > 0, scaled, 0.0)))

    low, high = (math.log(scale) for scale in SCALES)
    start = min(np.linspace(low, high, 17), key=kld)
    found = minimize_scalar(kld, bounds=(start - 0.21, start + 0.21), method="bounded", options={"xatol": 1e-3})
    factor = math.exp(float(found.x))
    if abs(factor - 1) < LEAST_SCALE:
        return math.inf, ""
    return float(found.fun), f"with free energies {factor:.3g} times as large: check unit, temperature and bias factor"
