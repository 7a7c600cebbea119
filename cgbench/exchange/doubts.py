"""Doubts about a file: readings that would score much better, and energies that are not those of the system.

If another reading of a file would score much better, a usual mistake is likely, and a warning says which. The
candidates are scored by the referee. They never change the score of the file. Of samples only other readings of the
columns are tried: they fall into bins whatever these are, and the noise of few samples resembles a wrong scale.

Configurations from another temperature, force field or solvent can have a plausible PMF. Their mean energy by the
potential of the system differs from that of the reference samples, whose standard errors are known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from cgbench.contracts.pmf import PMF
from cgbench.exchange.axes import Points
from cgbench.exchange.binning import interpolate
from cgbench.exchange.estimates import inefficiency_of_one
from cgbench.scoring.field_metrics import ComparedEnergies
from cgbench.scoring.referee import Referee

__all__ = ["covered_kld", "doubts", "energy_doubts"]

Array = NDArray[np.float64]
CLEARLY = 3.0  # a reading of the file is suggested if the forward KLD would be smaller by this factor
FOUND_OUT = 3.0  # noise floors; scores below are not doubted
SCALES = (0.2, 5.0)  # of free energies that are tried
LEAST_SCALE = 0.02  # relative deviation from 1 that is suggested
SURELY = 5.0  # standard errors of the difference of mean energies
LEAST_SHIFT = 1.0  # kT; smaller differences may come from the time step, or from populations that are not converged


def covered_kld(referee: Referee, pmf: PMF) -> float:
    """Return the forward KLD within the covered bins: finite also where a PMF has empty bins."""
    found = referee.covered(pmf)
    return math.inf if found is None else found[1]


def doubts(referee: Referee, pmf: PMF, of_samples: bool = False) -> list[str]:
    """Say which other reading of a file would score much better: a usual mistake is then likely.

    Parameters
    ----------
    referee, pmf
        The referee, and the PMF as it was read.
    of_samples
        Whether it is a PMF of samples, whose CVs are columns of the file.
    """
    facts = referee.facts()
    if facts is None:
        return []
    stated = covered_kld(referee, pmf)
    floor = FOUND_OUT * float(facts["noise_floor"])
    if not stated > max(floor, 1e-6):
        return []
    readings = _other_columns(pmf) if of_samples else chain(_other_columns(pmf), _other_points(pmf))
    others = [(covered_kld(referee, other), words) for other, words in readings]
    if not of_samples:
        others.append(_rescaled(referee, pmf))
    best, words = min(others, key=lambda one: one[0])
    if best * CLEARLY > stated:
        return []
    return [f"the forward KLD would be {best:.2g} instead of {stated:.2g} {words}"]


def _other_columns(pmf: PMF) -> Iterator[tuple[PMF, str]]:
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


def _other_points(pmf: PMF) -> Iterator[tuple[PMF, str]]:
    """Yield the PMF moved by half a bin, if it is positive everywhere, each with what would have gone wrong."""
    cvs = pmf.cvs
    if (pmf.probability > 0).all():
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


def energy_doubts(energies: ComparedEnergies | None) -> list[str]:
    """Say if the mean energy of samples differs from that of the reference samples by much more than by chance.

    The variance of a mean is that of the energies divided by the number of independent ones: Kish's number of the
    weights over the statistical inefficiency of the energies.
    """
    if energies is None or not all(np.isfinite(one).all() for one in (energies.reference, energies.samples)):
        return []
    known, its_variance = _mean_and_variance(energies.reference, np.ones(len(energies.reference)))
    found, variance = _mean_and_variance(energies.samples, energies.weights)
    shift, error = found - known, math.sqrt(its_variance + variance)
    if not abs(shift) > max(SURELY * error, LEAST_SHIFT):
        return []
    return [
        f"the mean energy differs by {shift:+.3g} kT (standard error {error:.2g}) from that of the reference samples: "
        "other temperature, force field, solvent or constraints, or not at equilibrium?"
    ]


def _mean_and_variance(energies: Array, weights: Array) -> tuple[float, float]:
    """Return the weighted mean of a time series of energies, and the variance of this mean."""
    shares = weights / weights.sum()
    mean = float(shares @ energies)
    independent = 1 / float(shares @ shares) / inefficiency_of_one(energies)
    return mean, float(shares @ (energies - mean) ** 2) / max(independent, 1.0)
