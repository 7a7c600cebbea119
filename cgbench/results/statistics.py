"""The statistic of every row: the median over seeds with its interval; and named random streams."""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["CONFIDENCE", "FEWEST", "SMALLEST", "median_interval", "quantiles", "random_stream", "standard_error"]

Array = NDArray[np.float64]
CONFIDENCE = 0.95
FEWEST = 3  # seeds, from which on their own scatter gives an interval
SMALLEST = 1e-16  # forward KLD: what is below is rounding, and may be zero


def median_interval(values: Array) -> tuple[float, float, float]:
    """Return an interval of the median between two of the values, and the probability that it contains the median.

    The interval from the k-th smallest to the k-th largest of n independent values contains the median of their
    distribution with probability ``1 - 2 P(B < k)``, B binomial with n trials of probability 1/2, whatever the
    distribution is (order statistics; David and Nagaraja, Order Statistics, 3rd ed., section 7.1). k is the largest
    for which this is at least 95 %; up to five values it is 1 (the whole range), although five values give 94 % and
    three give 75 %.

    Parameters
    ----------
    values
        One per seed; infinite for a miss.

    Returns
    -------
    low, high, confidence
        All nan with fewer than three values, or if a value is nan.
    """
    n = len(values)
    if n < FEWEST or np.isnan(values).any():
        return math.nan, math.nan, math.nan
    tails = np.cumsum([2 * math.comb(n, k) / 2**n for k in range(n // 2)])  # [k - 1]: probability of a miss
    k = max(1, int((tails <= 1 - CONFIDENCE).sum()))
    ordered = np.sort(values)
    return float(ordered[k - 1]), float(ordered[n - k]), float(1 - tails[k - 1])


def quantiles(values: Array) -> tuple[Array, Array]:
    """Return the ends of the central 95 % of values along the first axis, which may be infinite."""
    tail = (1 - CONFIDENCE) / 2
    low = np.quantile(values, tail, axis=0, method="lower")
    high = np.quantile(values, 1 - tail, axis=0, method="higher")
    return np.asarray(low), np.asarray(high)


def random_stream(*names: str) -> np.random.Generator:
    """Return a random generator for these names; generators of different names are independent."""
    digest = hashlib.sha256("/".join(names).encode()).digest()
    return np.random.default_rng(list(digest))


def standard_error(values: Array) -> float:
    """Return the standard error of the mean: nan for fewer than two values, exactly 0 if all are equal."""
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    return float(values.std(ddof=1) / math.sqrt(len(values))) if np.ptp(values) > 0 else 0.0
