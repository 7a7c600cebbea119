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
CHUNK = 20_000  # energies that are weighted at a time: their terms fit into the cache
# kT above the lowest energy. Samples beyond it have no weight but at the highest temperature, whatever their energy is;
# MBAR would lose the free energies in the rounding of larger numbers.
HIGHEST = 1e9


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
        """Return ``ln w`` of reduced energies of any shape, exact to rounding; NaN where the energy is not finite."""
        flat = np.where(np.isfinite(energies), energies, np.nan).reshape(-1)
        found = np.empty_like(flat)
        constants, slopes = np.log(self.counts) + self.free_energy, 1.0 - self.inverse
        for first in range(0, len(flat), CHUNK):
            chosen = slice(first, first + CHUNK)
            terms = constants[:, None] + slopes[:, None] * flat[chosen]
            largest = terms.max(0)
            found[chosen] = -(largest + np.log(np.exp(terms - largest).sum(0)))
        return found.reshape(energies.shape)


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
        # Thermodynamic integration over the inverse temperature, by the trapezoidal rule, is close to the solution. The
        # median stands for the mean: one sample of enormous energy would move the start so far that MBAR fails.
        middle = np.array([np.median(column) for column in columns]) - lowest
        start = np.concatenate([[0.0], np.cumsum(np.diff(inverse) * 0.5 * (middle[1:] + middle[:-1]))])
    above = np.minimum(together - lowest, HIGHEST)
    mbar = solve(inverse[:, None] * above, np.array([len(column) for column in columns]), start)
    found = np.asarray(mbar.f_k)
    found = found - found[0]
    if not np.isfinite(found).all():
        raise ValueError("MBAR found no finite free energies of the temperatures: their energies do not overlap")
    return Reweighting(inverse, counts, found + (inverse - inverse[0]) * lowest)
