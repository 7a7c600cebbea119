"""The temperatures of a ladder: how many, and how they are spaced.

If energies at two neighbouring temperatures are normally distributed with the heat capacity C (in k_B), the accepted
share of exchanges is about

    a = erfc(l),        l = (sqrt(C) / 2) ln(T_j / T_i)

(Kofke, J. Chem. Phys. 117, 6911, 2002, and 120, 10852, 2004). The lengths l of successive intervals add up. From the
measured rates of one ladder follows l as a function of ln T, and from that the temperatures with equal rates.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfcinv

__all__ = ["first_ladder", "respaced"]

Array = NDArray[np.float64]
LEAST_RATE = 1e-4  # measured rates below this are noise


def first_ladder(degrees_of_freedom: int, hottest: float, rate: float, most: int) -> Array:
    """Return temperatures in a geometric series, for the heat capacity of a harmonic system.

    Parameters
    ----------
    degrees_of_freedom
        Coordinates without rigid motion; each contributes 1/2 to the heat capacity of the potential energy.
    hottest
        Highest temperature relative to the lowest.
    rate
        Least share of accepted exchanges.
    most
        Largest number of temperatures.

    Returns
    -------
    Array
        Increasing temperatures relative to the first, ``[temperatures]``.
    """
    length = 0.5 * math.sqrt(0.5 * max(degrees_of_freedom, 1)) * math.log(hottest)
    return np.geomspace(1.0, hottest, _count(length, rate, most))


def respaced(relative: Array, rates: Array, rate: float, most: int) -> Array:
    """Return temperatures whose neighbours exchange at equal rates of at least `rate`, if `most` are enough for that.

    Parameters
    ----------
    relative
        Present temperatures relative to the first, ``[temperatures]``.
    rates
        Measured shares of accepted exchanges of neighbours, ``[temperatures - 1]``.
    rate, most
        As for `first_ladder`.
    """
    lengths = erfcinv(np.clip(rates, LEAST_RATE, 1.0 - LEAST_RATE))
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    wanted = np.linspace(0.0, along[-1], _count(along[-1], rate, most))
    found = np.exp(np.interp(wanted, along, np.log(relative)))
    found[0], found[-1] = relative[0], relative[-1]
    return np.asarray(found)


def _count(length: float, rate: float, most: int) -> int:
    return min(most, 1 + max(1, math.ceil(length / float(erfcinv(rate)))))
