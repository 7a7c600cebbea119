"""Smoothed histograms: the strongest simple estimate of a PMF from samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cgbench.pmf import PMF, CollectiveVariables

__all__ = ["likeliest_width", "smoothed_pmf"]

Array = NDArray[np.float64]
WIDTHS = (0.0, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)  # bins


def _smooth(cvs: CollectiveVariables, counts: Array, width: float) -> Array:
    """Convolve with a normalised Gaussian: around periodic axes, mirrored at the ends of others."""
    if width == 0.0:
        return counts
    modes = ["wrap" if periodic else "reflect" for periodic in cvs.periodic]
    return np.asarray(gaussian_filter(counts, width, mode=modes, truncate=5.0))


def likeliest_width(cvs: CollectiveVariables, counts: Array, inefficiency: float) -> float:
    """Choose the kernel's standard deviation, in bins, by leave-one-out likelihood.

    Every sample is predicted from all others. Neighbours in time say the same thing twice, so the counts
    are first divided by their statistical inefficiency; otherwise no smoothing at all would seem best.

    Parameters
    ----------
    cvs
        The grid.
    counts
        Histogram, shape ``cvs.bins``.
    inefficiency
        How many successive samples are worth one independent sample, at least 1.
    """
    independent = counts / inefficiency
    total = independent.sum()
    if total <= 2.0:
        return WIDTHS[-1]
    point = np.zeros(cvs.bins)
    middle = tuple(bins // 2 for bins in cvs.bins)
    point[middle] = 1.0
    visited = independent > 0
    best, chosen = -np.inf, WIDTHS[-1]
    for width in WIDTHS:
        own = _smooth(cvs, point, width)[middle]
        others = _smooth(cvs, independent, width)[visited] - np.minimum(independent[visited], 1.0) * own
        density = np.maximum(others, 1e-300) / (total - 1.0) + 1.0 / (total * counts.size)
        score = float((independent[visited] * np.log(density)).sum())
        if score > best:
            best, chosen = score, width
    return chosen


def smoothed_pmf(cvs: CollectiveVariables, counts: Array, inefficiency: float, pseudocount: float = 0.5) -> PMF:
    """Kernel estimate of the PMF with the width of `likeliest_width`.

    Parameters
    ----------
    pseudocount
        Independent samples, all bins together, that are spread evenly to keep the estimate positive.
    """
    counts = np.asarray(counts, dtype=np.float64)
    density = _smooth(cvs, counts, likeliest_width(cvs, counts, inefficiency))
    return PMF(cvs, np.maximum(density, 0.0) + pseudocount * inefficiency / counts.size)
