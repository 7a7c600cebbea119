"""Weights of samples of all temperatures at the lowest one, by MBAR.

With reduced energies u, ``b_k = T_0 / T_k``, ``N_k`` samples at T_k and their free energies ``f_k``, MBAR (Shirts and
Chodera, J. Chem. Phys. 129, 124105, 2008) gives a sample the weight

    w(u) = exp(-u) / sum_k N_k exp(f_k - b_k u),        f_k = -ln sum_n exp(-b_k u_n) / sum_j N_j exp(f_j - b_j u_n).

It depends on the energy alone. The free energies are solved with a subset of the samples, evenly spaced in time: ten
thousand independent samples determine them to about 0.01 kT, and an error of that size changes the weights of all
samples of an energy alike, hence the PMF by far less. All samples are weighted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench_methods.lib.estimators.mbar import solve

__all__ = ["Reweighting", "reweighting"]

Array = NDArray[np.float64]
TABLE = 20_000  # points of the tabulated logarithm of the weight


@dataclass(frozen=True)
class Reweighting:
    """The weights as a function of the energy.

    Attributes
    ----------
    inverse
        ``b_k`` of the temperatures with samples, ``[states]``.
    counts
        Number of their samples, ``[states]``.
    free_energy
        Their reduced free energies in kT, ``[states]``; that of the first is zero.
    """

    inverse: Array
    counts: Array
    free_energy: Array

    def log_weights(self, energies: Array) -> Array:
        """Return ``ln w`` of reduced energies of any shape; NaN for NaN.

        Many energies are interpolated in a table, which is exact to 1e-6 for the smooth function that this is.
        """
        if energies.size <= TABLE:
            return self._exact(energies)
        low, high = np.nanmin(energies), np.nanmax(energies)
        points = np.linspace(low, high, TABLE)
        return np.asarray(np.interp(energies, points, self._exact(points)))

    def _exact(self, energies: Array) -> Array:
        terms = np.log(self.counts) + self.free_energy + (1.0 - self.inverse) * energies[..., None]
        with np.errstate(invalid="ignore"):  # from NaN
            return -np.asarray(np.logaddexp.reduce(terms, axis=-1))


def reweighting(energies: torch.Tensor, relative: Array, most: int, near: Reweighting | None = None) -> Reweighting:
    """Return the weights of samples.

    Parameters
    ----------
    energies
        Reduced energies ``[samples, ladders, temperatures]`` at the lowest temperature; NaN where there is none.
    relative
        Temperatures relative to the lowest, ``[temperatures]``.
    most
        Largest number of samples that the free energies are solved with.
    near
        Weights of similar samples, to start from.

    Raises
    ------
    ValueError
        If there is no sample, or MBAR finds no finite free energies.
    """
    counts = energies.isfinite().sum((0, 1)).numpy()
    used = np.flatnonzero(counts)
    if not len(used):
        raise ValueError("no sample is usable: every walker diverged (diverged_walker) or left the state space")
    inverse, counts = 1.0 / relative[used], counts[used].astype(np.float64)
    if len(used) == 1:
        return Reweighting(inverse, counts, np.zeros(1))
    step = max(1, math.ceil(energies.numel() / most))
    thinned = energies[(len(energies) - 1) % step :: step]  # the last sample is always among them
    columns = [thinned[:, :, k].flatten().double().numpy() for k in used]
    columns = [column[np.isfinite(column)] for column in columns]
    if not all(len(column) for column in columns):
        columns = [energies[:, :, k].flatten().double().numpy() for k in used]
        columns = [column[np.isfinite(column)] for column in columns]
    together = np.concatenate(columns)
    lowest = together.min()
    if near is not None and np.array_equal(near.inverse, inverse):
        start = near.free_energy - (inverse - inverse[0]) * lowest
    else:
        # thermodynamic integration over the inverse temperature, by the trapezoidal rule, is close to the solution
        means = np.array([column.mean() for column in columns]) - lowest
        start = np.concatenate([[0.0], np.cumsum(np.diff(inverse) * 0.5 * (means[1:] + means[:-1]))])
    mbar = solve(inverse[:, None] * (together - lowest), np.array([len(column) for column in columns]), start)
    found = np.asarray(mbar.f_k)
    found = found - found[0]
    if not np.isfinite(found).all():
        raise ValueError("MBAR found no finite free energies of the temperatures: their energies do not overlap")
    return Reweighting(inverse, counts, found + (inverse - inverse[0]) * lowest)
