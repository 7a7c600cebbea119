"""PMFs from samples with weights: histogram and smoothed histogram, statistical inefficiency, standard errors."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench.contracts.smoothing import smoothed_pmf
from cgbench.errors import UserError

__all__ = ["SampledPMF", "estimate", "inefficiency", "inefficiency_of_one", "normalised_weights"]

Array = NDArray[np.float64]
PSEUDOCOUNT = 0.5  # per bin: the Jeffreys prior
SMOOTHED_PSEUDOCOUNT = 0.1  # as in the smoothed estimate of method md
STRETCH = 10  # statistical inefficiencies in one stretch of time of the two halves


@dataclass(frozen=True)
class SampledPMF:
    """PMFs from samples.

    Attributes
    ----------
    histogram
        From the weighted histogram with half a count per bin, with standard errors.
    smoothed
        From the histogram smoothed with a Gaussian kernel of the most likely width.
    inefficiency
        Statistical inefficiency of the CVs: samples for each independent one.
    independent
        Number of independent samples: Kish's number of the weights divided by the inefficiency.
    visited
        Number of bins with a sample.
    """

    histogram: PMF
    smoothed: PMF
    inefficiency: float
    independent: float
    visited: int


def normalised_weights(log_weights: Array) -> Array:
    """Return weights with mean 1 from their logarithms.

    Raises
    ------
    UserError
        If none of them is finite, or one is nan or infinitely large.
    """
    if np.isnan(log_weights).any() or np.isposinf(log_weights).any() or not np.isfinite(log_weights).any():
        raise UserError("the weights are not usable: their logarithms must be finite, or -inf for a weight of zero")
    weights = np.exp(log_weights - log_weights.max())
    return np.asarray(weights / weights.mean())


def estimate(cvs: CollectiveVariables, s: Array, weights: Array) -> SampledPMF:
    """Estimate the PMF from a time series of CVs.

    The standard error of a bin's free energy is that of a multinomial, ``sqrt((1 - p) / (p n))``, with n independent
    samples; p has the pseudocount, which keeps it positive.

    Parameters
    ----------
    cvs
        CVs and grid.
    s
        Samples in the order of time ``[samples, cvs]``.
    weights
        Weight of each sample, mean 1.

    Raises
    ------
    UserError
        If no sample with a weight is in the domain.
    """
    index = cvs.bin_index(s)
    if not (index[weights > 0] >= 0).any():
        raise UserError(f"no sample is in the domain of {', '.join(cvs.names)}")
    kish = float(weights.sum() ** 2 / (weights**2).sum())
    inefficient = inefficiency(cvs, s)
    independent = max(kish / inefficient, 1.0)
    counts = cvs.histogram(s, weights) * (kish / len(s))  # as many counts as there are effective samples
    p = counts + PSEUDOCOUNT
    p = p / p.sum()
    histogram = PMF.from_counts(cvs, counts, PSEUDOCOUNT, np.sqrt((1 - p) / (p * independent)))
    stretch = max(1, math.ceil(STRETCH * inefficient))
    second = (np.arange(len(s)) // stretch % 2).astype(bool)
    scale = kish / len(s)
    halves = tuple(scale * cvs.histogram(s[half], weights[half]) for half in (~second, second))
    smoothed = smoothed_pmf(cvs, (halves[0], halves[1]), SMOOTHED_PSEUDOCOUNT)
    return SampledPMF(histogram, smoothed, inefficient, independent, int((counts > 0).sum()))


def inefficiency(cvs: CollectiveVariables, s: Array) -> float:
    """Return the largest statistical inefficiency of the CVs (for angles of their sine and cosine), by pymbar.

    Chodera et al., J. Chem. Theory Comput. 3, 26 (2007). It is 1 for independent samples, and is underestimated if the
    samples are shorter than the slowest process.
    """
    found = [1.0]
    for k, periodic in enumerate(cvs.periodic):
        turn = 2 * np.pi * (s[:, k] - cvs.lower[k]) / (cvs.upper[k] - cvs.lower[k])
        for series in (np.cos(turn), np.sin(turn)) if periodic else (s[:, k],):
            found.append(inefficiency_of_one(series))
    return max(found)


def inefficiency_of_one(series: Array) -> float:
    """Return the statistical inefficiency of one time series, by pymbar; 1 if it is too short or constant."""
    if len(series) < 10 or series.std() <= 1e-12:
        return 1.0
    return float(_timeseries().statistical_inefficiency(series, fast=True))


def _timeseries() -> Any:
    """Import pymbar's time series without the advice that it logs on import."""
    logger = logging.getLogger("pymbar")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from pymbar import timeseries
    finally:
        logger.setLevel(level)
    return timeseries
