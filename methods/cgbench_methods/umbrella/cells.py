"""Frames counted in small cells: free energies of windows from all frames, and standard errors by the jackknife.

MBAR's equations (`cgbench_methods.lib.estimators.mbar`) depend on frames through the restraint energies alone. Frames
within a cell much smaller than the thermal width of a restraint are therefore replaced by their mean. With ``n_c``
frames in cell c, ``N_k`` frames of window k and ``e_c = sum_k N_k exp(f_k - u_kc)``, the free energies minimise the
convex function

    sum_c n_c ln e_c - sum_k N_k f_k,

which is MBAR's (Shirts and Chodera 2008, Appendix C) with weighted samples. Its cost does not grow with the frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.lib.estimators.mbar import Frames
from cgbench_methods.lib.estimators.newton import minimise
from cgbench_methods.lib.sampling.restraints import HarmonicRestraints

__all__ = ["Cells"]

Array = NDArray[np.float64]
PER_WIDTH = 8.0  # cells per thermal width w of a restraint; the mean energy of a cell is then off by 1/24 (1/8)^2 kT
FARTHEST = 10_000  # cells beyond either end of a domain; a frame further out is counted in the last
LARGEST = 600.0  # logarithm of a Boltzmann factor; sums of many are still far from overflow in float64


class Cells:
    """Counts of frames in cells, separately for blocks of frames.

    A block is one of `parts` consecutive parts of the last stretch of one replicate. Frames of earlier stretches are in
    the first block of their replicate.

    Parameters
    ----------
    cvs
        Collective variables and the grid of the PMF, whose bins are divided into cells.
    restraints
        Restraints of the windows.
    stretches
        Frames of all windows; unusable ones are ignored.
    parts
        Blocks per replicate.

    Attributes
    ----------
    counts
        Frames in each cell, ``[blocks, cells]``; the blocks of a replicate are consecutive.
    sampled
        Frames of each window, ``[blocks, windows]``.
    parts
        Blocks per replicate.
    """

    def __init__(
        self, cvs: CollectiveVariables, restraints: HarmonicRestraints, stretches: Sequence[Frames], parts: int = 1
    ) -> None:
        self.cvs, self.parts = cvs, parts
        replicates = 1 + max(int(one.replicate.max()) for one in stretches)
        s, window, block = [], [], []
        for stretch in stretches:
            length = len(stretch.s)
            part = torch.arange(length) * parts // max(1, length) if stretch is stretches[-1] else torch.zeros(length)
            usable = stretch.usable
            s.append(stretch.s[usable].double())
            window.append(stretch.window.expand(length, -1)[usable])
            block.append((stretch.replicate * parts + part.long()[:, None])[usable])
        blocks, windows = replicates * parts, len(restraints.centres)
        points, of_window, of_block = torch.cat(s).numpy(), torch.cat(window).numpy(), torch.cat(block).numpy()
        cell, cells = _numbered(cvs, points, restraints.stiffness)
        self.counts = _table(of_block, cell, (blocks, cells))
        self.sampled = _table(of_block, of_window, (blocks, windows))
        centres = _means(cvs, points, cell, self.counts.sum(0))
        self._bin = cvs.bin_index(centres)
        energies = _energies(restraints, centres)  # [cells, windows]
        # Relative to the largest factor of each cell: MBAR's equations depend on ratios alone.
        # The factors themselves are all zero for a frame far from every window.
        self._lowest = energies[:, self.sampled.sum(0) > 0].min(1)
        self._factors = np.exp(np.minimum(self._lowest[:, None] - energies, LARGEST))
        self._grid_factors = np.exp(-_energies(restraints, cvs.grid()))  # [bins, windows]

    @property
    def used(self) -> NDArray[np.bool_]:
        """Which blocks have a frame."""
        return np.asarray(self.counts.sum(1) > 0)

    def free_energies(self, start: Array, chosen: NDArray[np.bool_] | None = None) -> tuple[Array, float]:
        """Solve MBAR's equations.

        Parameters
        ----------
        start
            Initial guess of the free energies, ``[windows]`` in kT.
        chosen
            Which blocks to use, ``[blocks]``; all by default.

        Returns
        -------
        free_energy, residual
            Free energies of the windows in kT, and the largest relative error of a window's number of frames.
        """
        counts, sampled = self._sums(chosen)
        seen = counts > 0
        counts, factors = counts[seen], self._factors[seen]

        def objective(f: Array) -> tuple[float, tuple[Array, Array]]:
            scale = sampled * np.exp(f)
            exposure = factors @ scale
            return float(counts @ np.log(exposure) - sampled @ f), (scale, exposure)

        def newton_step(f: Array, now: tuple[Array, Array]) -> tuple[Array, float]:
            scale, exposure = now
            expected = scale * (factors.T @ (counts / exposure))
            gradient = expected - sampled
            root = factors * (scale * (np.sqrt(counts) / exposure)[:, None])
            # the constant of the free energies is free, as are those of windows without frames: take the shortest step
            hessian = np.diag(expected) - root.T @ root
            step: Array = np.linalg.lstsq(hessian, gradient, rcond=1e-12)[0].astype(np.float64)
            return step, float(gradient @ step)

        free_energy, (scale, exposure) = minimise(
            objective, newton_step, start - start[0], iterations=50, shortest=1e-6, armijo=1e-4, least_decrement=1e-6
        )
        sums = factors.T @ (counts / exposure)
        residual = np.abs(scale * sums / np.maximum(sampled, 1.0) - 1.0)[sampled > 0]
        all_windows = np.where(sampled > 0, free_energy, -np.log(np.maximum(sums, 1e-300)))
        return np.asarray(all_windows), float(residual.max())

    def histogram(self, free_energy: Array, chosen: NDArray[np.bool_]) -> tuple[Array, Array]:
        """Return the reweighted histogram of some blocks and their exposure at the bin centres, both ``cvs.bins``."""
        counts, sampled = self._sums(chosen)
        scale = sampled * np.exp(free_energy)
        used = (self._bin >= 0) & (counts > 0)
        weights = counts[used] / (self._factors[used] @ scale) * np.exp(self._lowest[used])
        histogram = np.asarray(np.bincount(self._bin[used], weights, math.prod(self.cvs.bins)), dtype=np.float64)
        return histogram.reshape(self.cvs.bins), (self._grid_factors @ scale).reshape(self.cvs.bins)

    def _sums(self, chosen: NDArray[np.bool_] | None) -> tuple[Array, Array]:
        rows = slice(None) if chosen is None else chosen
        return self.counts[rows].sum(0), self.sampled[rows].sum(0)


def _numbered(cvs: CollectiveVariables, s: Array, stiffness: Sequence[float]) -> tuple[NDArray[np.int64], int]:
    """Return the number of each point's cell, and the number of cells; cells extend beyond a non-periodic domain."""
    columns = []
    wrapped = cvs.wrap(s)
    for axis, k in enumerate(stiffness):
        width = (cvs.upper[axis] - cvs.lower[axis]) / cvs.bins[axis]
        parts = math.ceil(PER_WIDTH * width * math.sqrt(k))
        place = np.floor((wrapped[:, axis] - cvs.lower[axis]) / (width / parts))
        columns.append(np.clip(place, -FARTHEST, parts * cvs.bins[axis] + FARTHEST).astype(np.int64))
    flat = np.zeros(len(s), dtype=np.int64)
    for column in columns:
        flat = flat * (1 + np.ptp(column)) + column - column.min()
    cells, number = np.unique(flat, return_inverse=True)
    return number, len(cells)


def _table(rows: NDArray[np.int64], columns: NDArray[np.int64], shape: tuple[int, int]) -> Array:
    """Count pairs of row and column."""
    flat = np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1])
    return flat.reshape(shape).astype(np.float64)


def _means(cvs: CollectiveVariables, s: Array, cell: NDArray[np.int64], counts: Array) -> Array:
    """Return the mean of the points in each cell, ``[cells, cvs]``; a cell does not extend over a period's end."""
    wrapped = cvs.wrap(s)
    sums = [np.bincount(cell, wrapped[:, axis], len(counts)) for axis in range(len(cvs))]
    return np.stack(sums, axis=1) / counts[:, None]


def _energies(restraints: HarmonicRestraints, s: Array) -> Array:
    """Return ``u_k(s)``, ``[points, windows]`` in kT."""
    energies = [restraints.between(p[:, None], restraints.centres[None]) for p in torch.from_numpy(s).split(5000)]
    return np.asarray(torch.cat(energies).numpy())
