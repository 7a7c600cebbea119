"""Misfit: what the weighted samples say against the model of the PMF, on scales that it does not resolve.

The model has no waves above its order, and its prior has a shortest length scale. Its own errors assume that the PMF is
like that. The mean of ``r = w exp(A)`` is 1 wherever the model is right, whatever the model is; smoothed over less than
the shortest wave, ``r - 1`` is the error of A with noise of known variance.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cgbench.contracts.cvs import CollectiveVariables

__all__ = ["Misfit", "misfit"]

Array = NDArray[np.float64]
WIDTH = 0.1  # of the kernel: this part of the shortest wave
SIGNIFICANT = 5.0  # standard errors


class Misfit(NamedTuple):
    """A forward KLD that the model does not know of, and its standard error if there is none."""

    kld: float
    error: float

    @property
    def significant(self) -> bool:
        """Whether it is not noise."""
        return self.kld > SIGNIFICANT * self.error


def misfit(cvs: CollectiveVariables, order: int, probability: Array, information: Array, residual: Array) -> Misfit:
    """Return the mean square of the smoothed residuals beyond their noise, as a forward KLD.

    Parameters
    ----------
    cvs
        The grid.
    order
        Largest wave number of the model along each CV.
    probability
        The model's PMF, of shape ``cvs.bins``.
    information, residual
        Sums over the samples of each bin, of the same shape: of the inverse variance of r, and of ``r - 1`` times that.
    """
    widths = [WIDTH / order * bins for bins in cvs.bins]
    modes = ["wrap" if periodic else "constant" for periodic in cvs.periodic]

    def smoothed(values: Array, scale: float = 1.0) -> Array:
        return np.asarray(gaussian_filter(values, [scale * width for width in widths], mode=modes, truncate=5.0))

    total = smoothed(information)
    known = total > 1e-9 * total.max(initial=0.0)
    if not known.any():
        return Misfit(0.0, math.inf)
    total = np.where(known, total, 1.0)
    # the square of a Gaussian kernel is one of width / sqrt 2, times its sum of squares; narrow ones are discrete
    square = smoothed(information, math.sqrt(0.5)) * _sum_of_squares(widths)
    noise = np.where(known, square / total**2, 0.0)
    found = np.where(known, smoothed(residual) / total, 0.0)
    kld = 0.5 * float((probability * (found**2 - noise)).sum())
    # the squares of two bins have the covariance 2 C^2; with the correlation exp(-d^2 / 4 width^2)
    parts = probability * noise
    alike = smoothed(parts) * math.prod(max(1.0, math.sqrt(2 * math.pi) * width) for width in widths)
    return Misfit(kld, math.sqrt(0.5 * float((parts * alike).sum())))


def _sum_of_squares(widths: list[float]) -> float:
    """Return the sum of the squares of the kernel over bins."""
    found = 1.0
    for width in widths:
        line = np.zeros(2 * math.ceil(5 * width) + 3)
        line[len(line) // 2] = 1.0
        found *= float((gaussian_filter(line, width, mode="constant", truncate=5.0) ** 2).sum())
    return found
