"""Histograms smoothed with a Gaussian kernel, whose width is chosen by held-out likelihood.

The estimate is ``p ~ K_w * n + c``: counts n convolved with a Gaussian of standard deviation w bins, plus a
pseudocount c.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF

__all__ = ["WIDTHS", "likeliest_width", "smooth", "smoothed_pmf"]

Array = NDArray[np.float64]
WIDTHS = (0.0, 0.35, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0, 2.8, 4.0)  # bins


def smooth(cvs: CollectiveVariables, counts: Array, width: float) -> Array:
    """Convolve with a normalised Gaussian, wrapped around periodic axes and mirrored at the ends of others."""
    if width == 0.0:
        return counts
    modes = ["wrap" if periodic else "reflect" for periodic in cvs.periodic]
    return np.asarray(np.maximum(gaussian_filter(counts, width, mode=modes, truncate=5.0), 0.0))


def likeliest_width(cvs: CollectiveVariables, halves: tuple[Array, Array], pseudocount: float) -> float:
    """Choose the kernel's standard deviation in bins by the likelihood of each half under the other.

    Parameters
    ----------
    cvs
        The grid.
    halves
        Two histograms, shape ``cvs.bins``, of alternating stretches of time that are longer than local correlations.
        If one half is empty, the largest width is used.
    pseudocount
        Added to every bin.
    """
    if min(half.sum() for half in halves) == 0:
        return WIDTHS[-1]
    best, chosen = -np.inf, WIDTHS[-1]
    for width in WIDTHS:
        score = 0.0
        for known, unseen in (halves, halves[::-1]):
            density = smooth(cvs, known, width) + pseudocount
            score += float((unseen * np.log(density / density.sum())).sum())
        if score > best:
            best, chosen = score, width
    return chosen


def smoothed_pmf(cvs: CollectiveVariables, halves: tuple[Array, Array], pseudocount: float) -> PMF:
    """Estimate the PMF from two histograms, with the kernel width that `likeliest_width` chooses."""
    width = likeliest_width(cvs, halves, pseudocount)
    return PMF(cvs, smooth(cvs, halves[0] + halves[1], width) + pseudocount)
