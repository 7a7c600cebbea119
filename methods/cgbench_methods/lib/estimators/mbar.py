"""Combine restrained simulations: free energies of windows by MBAR, their overlap, and weights of all frames.

With ``u_k(s)`` the restraint energy of window k in kT, ``N_k`` its number of frames and ``f_k`` its free energy, MBAR
(Shirts and Chodera, J. Chem. Phys. 129, 124105, 2008) solves

    f_k = -ln sum_n exp(-u_k(s_n)) / e(s_n),        e(s) = sum_k N_k exp(f_k - u_k(s)),

over all frames n. ``1 / e(s_n)`` is then the weight of a frame, and e, the exposure, says how often a configuration
is visited relative to equilibrium.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables

__all__ = ["Frames", "Restraints", "Windows", "disconnected", "quiet_pymbar", "solve", "statistical_inefficiency"]

Array = NDArray[np.float64]
CHUNK = 3_000_000  # elements of a matrix of frames and windows
SERIES = 48  # walkers whose time series give the statistical inefficiency, at most


class Restraints(Protocol):
    """Restraints on the collective variables, one centre ``[cvs]`` per window."""

    centres: torch.Tensor

    def between(self, s: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
        """Energies ``[...]`` in kT at ``s [..., cvs]`` of restraints at ``centres [..., cvs]``."""


@dataclass(frozen=True)
class Frames:
    """Collective variables along a stretch of time.

    Attributes
    ----------
    s
        ``[frames, walkers, cvs]``; a walker keeps its window, as configurations are exchanged between walkers. NaN
        where a walker diverged or left the state space: such entries are ignored everywhere.
    window, replicate
        Those of each walker, ``[walkers]``.
    """

    s: torch.Tensor
    window: torch.Tensor
    replicate: torch.Tensor

    @property
    def usable(self) -> torch.Tensor:
        """Which entries are finite, boolean ``[frames, walkers]``."""
        return self.s.isfinite().all(dim=2)

    def part(self, frames: slice, walkers: torch.Tensor | None = None) -> Frames:
        """Return some frames of some walkers (a boolean mask; all without one)."""
        chosen = torch.ones_like(self.window, dtype=torch.bool) if walkers is None else walkers
        return Frames(self.s[frames][:, chosen], self.window[chosen], self.replicate[chosen])

    def of_windows(self, kept: NDArray[np.int64]) -> Frames:
        """Return the walkers of the windows `kept`, which are renumbered in that order."""
        number = torch.full((1 + int(max(self.window.max(), kept.max(initial=0))),), -1)
        number[torch.from_numpy(kept)] = torch.arange(len(kept))
        chosen = number[self.window] >= 0
        return Frames(self.s[:, chosen], number[self.window[chosen]], self.replicate[chosen])


class Windows:
    """A mixture of restrained simulations.

    Parameters
    ----------
    restraints
        The windows' restraints, with centres ``[windows, cvs]``.
    stretches
        The frames of all windows.
    start
        Initial guess of the free energies, ``[windows]`` in kT.
    frames
        Largest number of frames that MBAR is solved with.
    inefficiency
        Frames per independent frame; MBAR is solved with at most one frame in every such interval.

    Attributes
    ----------
    free_energy
        Free energies of the windows in kT.
    empty
        Number of windows without a usable frame.

    Raises
    ------
    ValueError
        If there is no usable frame, or MBAR finds no finite free energies.
    """

    def __init__(
        self,
        restraints: Restraints,
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
            raise ValueError("no window has a usable frame: every walker diverged (diverged_walker)")
        s = torch.cat([stretch.s.flatten(0, 1) for stretch in thinned])[usable].double()
        window = torch.cat([stretch.window.repeat(len(stretch.s)) for stretch in thinned])[usable]
        by_window = window.argsort(stable=True)  # pymbar expects the samples of one window after the other
        counts = torch.bincount(window, minlength=len(restraints.centres)).numpy()
        energies = np.ascontiguousarray(self._energies(s[by_window]).T.numpy())
        self.mbar = solve(energies, counts, start)
        self.free_energy = np.asarray(self.mbar.f_k)
        if not np.isfinite(self.free_energy).all():
            raise ValueError("MBAR found no finite free energies of the windows: they do not overlap")
        sampled = torch.zeros(len(counts), dtype=torch.float64)
        for stretch in stretches:
            sampled.index_add_(0, stretch.window, stretch.usable.sum(0).double())
        self.empty = int((sampled == 0).sum())
        self._log_sampled = torch.log(sampled)

    def set_free_energy(self, free_energy: Array) -> None:
        """Replace the free energies ``[windows]`` in kT, which determine the exposure, by better ones."""
        self.free_energy = free_energy

    @property
    def _log_scale(self) -> torch.Tensor:
        return self._log_sampled + torch.from_numpy(self.free_energy)

    def _energies(self, s: torch.Tensor) -> torch.Tensor:
        return self.restraints.between(s[:, None], self.restraints.centres[None])

    def log_exposure(self, s: torch.Tensor) -> torch.Tensor:
        """Logarithm of the exposure ``e(s) = sum_k N_k exp(f_k - u_k(s))``, ``[batch]`` at ``s [batch, cvs]``."""
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
        """Exposure at the bin centres, of shape ``cvs.bins``."""
        values: Array = torch.exp(self.log_exposure(torch.from_numpy(cvs.grid()))).numpy()
        return values.reshape(cvs.bins)

    def overlap(self) -> Array:
        """MBAR's overlap matrix ``[windows, windows]``: which windows the samples of each could have come from."""
        return np.asarray(self.mbar.compute_overlap()["matrix"])

    def pair_overlap(self, pairs: torch.Tensor) -> Array:
        """Overlap of each pair of windows ``[pairs, 2]``, ``2 int p q / (p + q)``: 1 if they agree, 0 if disjoint."""
        weights = np.asarray(self.mbar.weights())
        first, second = weights[:, pairs[:, 0].numpy()], weights[:, pairs[:, 1].numpy()]
        return np.asarray((2.0 * first * second / np.maximum(first + second, 1e-300)).sum(0))


def solve(energies: Array, counts: NDArray[np.int64], start: Array) -> Any:
    """Return pymbar's MBAR object, solved by Newton or self-consistent iteration, whichever does better in each step.

    Better is the smaller gradient. The tolerance is looser than pymbar's twelve digits, which cannot be reached with
    this many samples. pymbar seeds numpy's global generator; its state is restored.

    Parameters
    ----------
    energies
        Energies ``[states, samples]`` in kT of all samples in all states; the samples of one state after the other.
    counts
        Number of samples of each state, ``[states]``.
    start
        Initial guess of the free energies, ``[states]`` in kT.
    """
    protocol = ({"method": "adaptive", "tol": 1e-7, "options": {"min_sc_iter": 1}},)
    state = np.random.get_state()  # noqa: NPY002
    try:
        return quiet_pymbar().MBAR(
            energies, counts, initial_f_k=start, solver_protocol=protocol, maximum_iterations=200
        )
    finally:
        np.random.set_state(state)  # noqa: NPY002


def quiet_pymbar() -> Any:
    """Import pymbar without the advice that it logs on import."""
    logger = logging.getLogger("pymbar")
    level = logger.level
    logger.setLevel(logging.ERROR)
    import pymbar

    logger.setLevel(level)
    return pymbar


def _offset(stretch: Frames, step: int) -> int:
    """Return the first frame to use when one of `step` is used: in the middle, but inside a short stretch."""
    return min(step // 2, len(stretch.s) - 1)


def disconnected(overlap: Array, least: float) -> list[int]:
    """Windows that no chain of overlaps of at least `least` connects to the largest group of windows."""
    from scipy.sparse.csgraph import connected_components

    _, group = connected_components(np.maximum(overlap, overlap.T) >= least, directed=False)
    largest = np.bincount(group).argmax()
    return [int(number) for number in np.flatnonzero(group != largest)]


def statistical_inefficiency(
    cvs: CollectiveVariables, stretch: Frames, centres: torch.Tensor, series: int = SERIES
) -> float:
    """Frames per independent frame: the mean over walkers, the largest over collective variables.

    Parameters
    ----------
    cvs
        The collective variables.
    stretch
        Frames sampled without a break.
    centres
        Centres of the windows ``[windows, cvs]``.
    series
        Largest number of walkers to average over.
    """
    chosen = torch.linspace(0, len(stretch.window) - 1, min(series, len(stretch.window))).round().long()
    away = cvs.difference(stretch.s[:, chosen].double(), centres[stretch.window[chosen]]).numpy()
    found = [list(_inefficiencies(away[:, :, axis])) for axis in range(len(cvs))]
    return float(max(np.mean(each) if each else 1.0 for each in found))


def _inefficiencies(series: Array) -> Iterator[float]:
    of_one = quiet_pymbar().timeseries.statistical_inefficiency
    for column in (column[np.isfinite(column)] for column in series.T):
        if not len(column):
            continue
        moves = len(column) > 3 and np.ptp(column) > 0
        yield float(of_one(column, mintime=3)) if moves else float(len(column))
