"""How often the bins of a grid are visited by samples of different weights, for fits to weighted histograms."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from cgbench.contracts.cvs import CollectiveVariables

__all__ = ["exposure"]

Array = NDArray[np.float64]
WIDTHS = (0.01, 0.03, 0.06, 0.12, 0.24)  # of the kernels that average the exposure, as fractions of each CV's domain
FEW = 50.0  # samples within a kernel below which a wider one is used


def exposure(cvs: CollectiveVariables, total: Array, squares: Array, visits: Array) -> Array:
    """How often each bin is visited relative to equilibrium, in effective visits, of shape ``cvs.bins``.

    The sum of the weights in a bin has the variance ``sum w^2``, as that of ``(sum w)^2 / sum w^2`` visits of equal
    weight. The exposure is their number divided by the sum of the weights: ``sum w / sum w^2``. It must hardly depend
    on single weights, because otherwise the fit would average ``1/w`` instead of w. Its logarithm is therefore averaged
    over the grid, with the narrowest kernel that has enough samples within. A narrow one matters on steep slopes, where
    bins with much larger weights are near.

    Parameters
    ----------
    cvs
        The grid.
    total, squares
        Sums of the weights and of their squares in each bin, of shape ``cvs.bins``.
    visits
        Number of samples in each bin, or the effective number where that is not known.
    """
    seen = (visits > 0) & (squares > 0)
    number = np.where(seen, visits, 0).astype(np.float64)
    log = np.log(np.where(seen, total, 1.0) / np.where(seen, squares, 1.0))
    found = np.full(cvs.bins, math.log(total.sum() / squares.sum()))
    modes = ["wrap" if periodic else "reflect" for periodic in cvs.periodic]
    for width in sorted(WIDTHS, reverse=True):
        sigma = [width * bins for bins in cvs.bins]
        count = gaussian_filter(number, sigma, mode=modes)
        mean = gaussian_filter(number * log, sigma, mode=modes)
        enough = count * np.prod([math.sqrt(2 * math.pi) * each for each in sigma]) >= FEW
        found = np.where(enough, mean / np.where(enough, count, 1.0), found)
    return np.asarray(np.exp(found))
