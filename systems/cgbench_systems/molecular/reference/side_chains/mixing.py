"""Measure whether walkers forget the rotamers that they started in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.system import Check
from cgbench_systems.molecular.reference.side_chains.bias import BINS
from cgbench_systems.molecular.reference.statistics import ratio

__all__ = ["Mixing", "wells"]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
LIMIT = 4.0  # standard errors
LEAST_TRANSITIONS = 4.0  # of a walker, on average
BARRIER = 1.0  # kT: minima that are separated by less are one well
CORE = 1.0  # kT above its minimum: there a walker is in a well; between cores it keeps its last one
HIGHEST = 12.0  # kT, where a torsion was never


def wells(free_energy: Array) -> tuple[Indices, Indices]:
    """Divide a periodic free energy in kT into wells.

    Returns
    -------
    minima
        Bin of the minimum of each well, in increasing order.
    well
        Number of the well that each bin belongs to: wells are divided at the highest bin between two minima.
    """
    count = len(free_energy)
    minima = [
        i
        for i in range(count)
        if free_energy[i] < free_energy[i - 1] and free_energy[i] <= free_energy[(i + 1) % count]
    ] or [int(free_energy.argmin())]
    while len(minima) > 1:
        ridges = _ridges(free_energy, minima)
        # the height of the lower of the two ridges of each minimum
        escape = [
            min(free_energy[ridges[n - 1]], free_energy[ridges[n]]) - free_energy[i] for n, i in enumerate(minima)
        ]
        shallowest = int(np.argmin(escape))
        if escape[shallowest] >= BARRIER:
            break
        del minima[shallowest]
    well: Indices = np.zeros(count, dtype=np.int64)
    if len(minima) > 1:
        ridges = _ridges(free_energy, minima)
        for n in range(len(minima)):
            span = (ridges[n] - ridges[n - 1]) % count
            well[(ridges[n - 1] + np.arange(span)) % count] = n
    return np.array(minima), well


def _ridges(free_energy: Array, minima: Sequence[int]) -> list[int]:
    """Return the highest bin between each minimum and the next one."""
    count, found = len(free_energy), []
    for n, start in enumerate(minima):
        span = (minima[(n + 1) % len(minima)] - start) % count
        between = (start + np.arange(1, span)) % count
        found.append(int(between[free_energy[between].argmax()]))
    return found


class Mixing:
    """Rotamers of independent walkers: their populations by starting rotamer, and their transitions.

    Parameters
    ----------
    free_energies
        Free energies along the torsions ``[torsions, BINS]`` in kT, which define the rotamers.
    starts
        Torsions at the start ``[walkers, torsions]``.
    """

    def __init__(self, free_energies: Array, starts: Array) -> None:
        self.free_energies, self.starts = free_energies, starts
        walkers, torsions = starts.shape
        divided = [wells(row) for row in free_energies]
        self.minima = [minima for minima, _ in divided]
        self.wells = [well for _, well in divided]
        self.cores = [
            np.where(row < row[minima][well] + CORE, well, -1)
            for row, (minima, well) in zip(free_energies, divided, strict=True)
        ]
        self.sums = [np.zeros((walkers, len(minima))) for minima in self.minima]
        self.histograms = np.zeros((torsions, BINS))
        self.transitions = np.zeros((walkers, torsions))
        self.last: Indices = np.full((walkers, torsions), -1)

    @staticmethod
    def _bins(angles: Array) -> Indices:
        return np.asarray(np.floor((angles + np.pi) * (BINS / (2 * np.pi))).astype(np.int64) % BINS)

    def update(self, angles: torch.Tensor, weights: Array) -> None:
        """Count the walkers at ``angles [walkers, torsions]`` with equilibrium weights ``[walkers]``."""
        bins = self._bins(angles.double().cpu().numpy())
        rows = np.arange(len(bins))
        for j in range(bins.shape[1]):
            self.sums[j][rows, self.wells[j][bins[:, j]]] += weights
            self.histograms[j] += np.bincount(bins[:, j], weights, BINS)
            core, last = self.cores[j][bins[:, j]], self.last[:, j]
            inside = core >= 0
            self.transitions[:, j] += inside & (last >= 0) & (core != last)
            self.last[:, j] = np.where(inside, core, last)

    def marginals(self) -> Array:
        """Return the free energy along each torsion at equilibrium, ``[torsions, BINS]`` in kT, `HIGHEST` at most."""
        tops = self.histograms.max(axis=1, keepdims=True)
        return np.asarray(-np.log(np.maximum(self.histograms / tops, np.exp(-HIGHEST))))

    def facts(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return what the certificate says about each torsion of these names."""
        marginals = self.marginals()
        found = []
        for j, name in enumerate(names):
            shares = [_share(self.sums[j], n) for n in range(len(self.minima[j]))]
            groups = self._start_groups(j)
            found.append(
                {
                    "torsion": name,
                    "wells_degrees": [round(float(-180 + (i + 0.5) * 360 / BINS), 1) for i in self.minima[j]],
                    "populations": [value for value, _ in shares],
                    "population_standard_errors": [error for _, error in shares],
                    "transitions_per_walker": float(self.transitions[:, j].mean()),
                    "walkers_without_transition": int((self.transitions[:, j] == 0).sum()),
                    "populations_by_starting_well": {
                        str(n): [_share(self.sums[j][members], m)[0] for m in range(len(shares))]
                        for n, members in groups.items()
                    },
                    "free_energy_kT": [round(float(value), 3) for value in marginals[j]],
                }
            )
        return found

    def _start_groups(self, j: int) -> dict[int, NDArray[np.bool_]]:
        """Return the walkers that started in each well of a torsion."""
        started = self.wells[j][self._bins(self.starts[:, j])]
        return {int(n): started == n for n in np.unique(started) if (started == n).sum() > 1}

    def checks(self, names: Sequence[str]) -> list[Check]:
        """Compare the populations of walkers that started in one rotamer with those of all others.

        A torsion passes if these agree within four standard errors, and walkers changed their rotamer often.
        """
        found = []
        for j, name in enumerate(names):
            if len(self.minima[j]) < 2:
                continue
            z, groups = [], self._start_groups(j)
            for members in groups.values():
                if members.all():
                    continue
                for n in range(len(self.minima[j])):
                    (one, first), (rest, second) = _share(self.sums[j][members], n), _share(self.sums[j][~members], n)
                    z.append((one - rest) / max(float(np.hypot(first, second)), 1e-300))
            transitions = float(self.transitions[:, j].mean())
            worst = max(map(abs, z), default=0.0)
            found.append(
                Check(
                    f"rotamers of {name}",
                    bool(worst < LIMIT and transitions >= LEAST_TRANSITIONS),
                    f"{len(self.minima[j])} rotamers, {transitions:.0f} transitions of each walker "
                    f"({int((self.transitions[:, j] == 0).sum())} of {len(self.starts)} walkers without any); "
                    f"populations of walkers from {len(groups)} starting rotamers agree, largest |z| {worst:.1f}",
                )
            )
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return everything as tensors."""
        state = {
            name: torch.from_numpy(np.array(getattr(self, name)))
            for name in ("free_energies", "starts", "histograms", "transitions", "last")
        }
        return state | {"sums": [torch.from_numpy(part.copy()) for part in self.sums]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Mixing:
        """Restore what `state_dict` returned."""
        mixing = cls(state["free_energies"].numpy(), state["starts"].numpy())
        mixing.histograms, mixing.transitions = state["histograms"].numpy(), state["transitions"].numpy()
        mixing.last, mixing.sums = state["last"].numpy(), [part.numpy() for part in state["sums"]]
        return mixing


def _share(sums: Array, well: int) -> tuple[float, float]:
    """Return the population of a well and its standard error, from the weights of walkers ``[walkers, wells]``."""
    return ratio(sums[:, well], sums.sum(axis=1))
