"""Combining windows: their free energies by MBAR, their overlap, and weights of all frames."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.lib.sampling.restraints import HarmonicRestraints

__all__ = ["Frames", "Windows", "disconnected", "statistical_inefficiency"]

Array = NDArray[np.float64]
CHUNK = 3_000_000  # elements of a matrix of frames and windows
SERIES = 48  # walkers whose time series give the statistical inefficiency, at most


@dataclass(frozen=True)
class Frames:
    """Collective variables along a stretch of time.

    Attributes
    ----------
    s
        ``[frames, walkers, cvs]``; walker i stays in its window, as configurations are exchanged between walkers.
        Not a number where a walker was lost: such entries are left out of everything.
    window, replicate
        Those of each walker, ``[walkers]``.
    """

    s: torch.Tensor
    window: torch.Tensor
    replicate: torch.Tensor

    @property
    def usable(self) -> torch.Tensor:
        """Which entries are numbers, boolean ``[frames, walkers]``."""
        return self.s.isfinite().all(dim=2)

    def part(self, frames: slice, walkers: torch.Tensor | None = None) -> Frames:
        """Some frames of some walkers (a boolean mask; all without one)."""
        chosen = torch.ones_like(self.window, dtype=torch.bool) if walkers is None else walkers
        return Frames(self.s[frames][:, chosen], self.window[chosen], self.replicate[chosen])

    def of_windows(self, kept: NDArray[np.int64]) -> Frames:
        """The walkers of the windows `kept`, which are numbered anew in that order."""
        number = torch.full((1 + int(max(self.window.max(), kept.max(initial=0))),), -1)
        number[torch.from_numpy(kept)] = torch.arange(len(kept))
        chosen = number[self.window] >= 0
        return Frames(self.s[:, chosen], number[self.window[chosen]], self.replicate[chosen])


class Windows:
    """A mixture of restrained simulations.

    Parameters
    ----------
    restraints
        Gives the energies of the windows' restraints; its centres are those of the windows, ``[windows, cvs]``.
    stretches
        What was sampled.
    start
        Free energies to start the iteration from, ``[windows]`` in kT.
    frames
        Largest number of frames that MBAR is solved with.
    inefficiency
        Frames that count as one; MBAR is solved with every so many-th.

    Attributes
    ----------
    free_energy
        Of the windows in kT, by MBAR.
    empty
        Number of windows without a usable frame.

    Raises
    ------
    ValueError
        If there is no usable frame, or MBAR finds no finite free energies.
    """

    def __init__(
        self,
        restraints: HarmonicRestraints,
        stretches: Sequence[Frames],
        start: Array,
        *,
        frames: int,
        inefficiency: float = 1.0,
    ) -> None:
        self.restraints = restraints
        total = sum(stretch.s.shape[0] * stretch.s.shape[1] for stretch in stretches)
        step = max(1, round(inefficiency), math.ceil(total / frames))
        thinned = [stretch.part(slice(_offset(stretch, step), None, step)) for stretch in stretches]
        usable = torch.cat([stretch.usable.flatten() for stretch in thinned])
        if not bool(usable.any()):
            raise ValueError("no window has a usable frame: every walker was lost (diverged_walker)")
        s = torch.cat([stretch.s.flatten(0, 1) for stretch in thinned])[usable].double()
        window = torch.cat([stretch.window.repeat(len(stretch.s)) for stretch in thinned])[usable]
        by_window = window.argsort(stable=True)  # pymbar numbers samples window by window
        counts = torch.bincount(window, minlength=len(restraints.centres)).numpy()
        energies = np.ascontiguousarray(self._energies(s[by_window]).T.numpy())
        self.mbar = _solve(energies, counts, start)
        self.free_energy = np.asarray(self.mbar.f_k)
        if not np.isfinite(self.free_energy).all():
            raise ValueError("MBAR found no finite free energies of the windows: they do not overlap")
        sampled = torch.zeros(len(counts), dtype=torch.float64)
        for stretch in stretches:
            sampled.index_add_(0, stretch.window, stretch.usable.sum(0).double())
        self.empty = int((sampled == 0).sum())
        self._log_scale = torch.log(sampled) + torch.from_numpy(self.free_energy)

    def _energies(self, s: torch.Tensor) -> torch.Tensor:
        return self.restraints.between(s[:, None], self.restraints.centres[None])

    def log_exposure(self, s: torch.Tensor) -> torch.Tensor:
        """Logarithm of how often `s` was visited relative to equilibrium, ``ln sum_k N_k exp(f_k - u_k(s))``.

        Its inverse is the weight of a frame in MBAR.
        """
        rows = max(1, CHUNK // len(self.restraints.centres))
        parts = [torch.logsumexp(self._log_scale - self._energies(p.double()), 1) for p in torch.split(s, rows)]
        return torch.cat(parts)

    def histogram(self, cvs: CollectiveVariables, stretches: Sequence[Frames]) -> Array:
        """Reweighted histogram of frames, of shape ``cvs.bins``; not normalised."""
        total = np.zeros(math.prod(cvs.bins))
        for stretch in stretches:
            s = stretch.s[stretch.usable]
            bins = cvs.bin_index(s.numpy())
            weights = torch.exp(-self.log_exposure(s)).numpy()
            inside = bins >= 0
            total += np.bincount(bins[inside], weights=weights[inside], minlength=len(total))
        return total.reshape(cvs.bins)

    def exposure(self, cvs: CollectiveVariables) -> Array:
        """How often each bin was visited relative to equilibrium, at its centre, of shape ``cvs.bins``."""
        values: Array = torch.exp(self.log_exposure(torch.from_numpy(cvs.grid()))).numpy()
        return values.reshape(cvs.bins)

    def overlap(self) -> Array:
        """MBAR's overlap matrix ``[windows, windows]``: where the samples of a window could have come from."""
        return np.asarray(self.mbar.compute_overlap()["matrix"])

    def pair_overlap(self, pairs: torch.Tensor) -> Array:
        """Overlap of two windows alone, ``2 int p q / (p + q)``: 1 for equal ones, 0 for windows apart."""
        weights = np.asarray(self.mbar.weights())
        first, second = weights[:, pairs[:, 0].numpy()], weights[:, pairs[:, 1].numpy()]
        return np.asarray((2.0 * first * second / np.maximum(first + second, 1e-300)).sum(0))


def _solve(energies: Array, counts: NDArray[np.int64], start: Array) -> Any:
    """Solve MBAR by Newton or self-consistent iteration, whichever leaves the smaller gradient in each step.

    pymbar asks for twelve digits unless told otherwise, which so many samples do not reach; and it seeds numpy's global
    generator, which is put back.
    """
    protocol = ({"method": "adaptive", "tol": 1e-7, "options": {"min_sc_iter": 1}},)
    state = np.random.get_state()  # noqa: NPY002
    try:
        return _quiet_pymbar().MBAR(
            energies, counts, initial_f_k=start, solver_protocol=protocol, maximum_iterations=200
        )
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _quiet_pymbar() -> Any:
    """Import pymbar without the advice that it gives whenever it is imported."""
    logger = logging.getLogger("pymbar")
    level = logger.level
    logger.setLevel(logging.ERROR)
    import pymbar

    logger.setLevel(level)
    return pymbar


def _offset(stretch: Frames, step: int) -> int:
    """The first of every `step` frames: in the middle, and inside a short stretch."""
    return min(step // 2, len(stretch.s) - 1)


def disconnected(overlap: Array, least: float) -> list[int]:
    """Windows that no chain of overlaps of at least `least` ties to the largest group of windows."""
    from scipy.sparse.csgraph import connected_components

    _, group = connected_components(np.maximum(overlap, overlap.T) >= least, directed=False)
    largest = np.bincount(group).argmax()
    return [int(number) for number in np.flatnonzero(group != largest)]


def statistical_inefficiency(
    cvs: CollectiveVariables, stretch: Frames, centres: torch.Tensor, series: int = SERIES
) -> float:
    """Frames that count as one independent one: the mean over walkers, the largest over collective variables.

    Parameters
    ----------
    cvs
        Collective variables.
    stretch
        What was sampled without a break.
    centres
        Centres of the windows ``[windows, cvs]``.
    series
        Walkers that are looked at, at most.
    """
    chosen = torch.linspace(0, len(stretch.window) - 1, min(series, len(stretch.window))).round().long()
    away = cvs.difference(stretch.s[:, chosen].double(), centres[stretch.window[chosen]]).numpy()
    found = [list(_inefficiencies(away[:, :, axis])) for axis in range(len(cvs))]
    return float(max(np.mean(each) if each else 1.0 for each in found))


def _inefficiencies(series: Array) -> Iterator[float]:
    of_one = _quiet_pymbar().timeseries.statistical_inefficiency
    for column in (column[np.isfinite(column)] for column in series.T):
        if not len(column):
            continue
        moves = len(column) > 3 and np.ptp(column) > 0
        yield float(of_one(column, mintime=3)) if moves else float(len(column))
