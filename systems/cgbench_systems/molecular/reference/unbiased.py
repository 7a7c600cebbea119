"""Unbiased MD from the biased ensemble, in which every walker keeps the weight of its starting configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from cgbench.contracts.pmf import basin_mask
from cgbench.contracts.system import System
from cgbench.errors import UserError
from cgbench_systems.molecular.reference.biased import BiasedRoute
from cgbench_systems.molecular.reference.route import TIME_STEP, Array, Route

__all__ = ["UnbiasedRoute", "relaxation_time"]


def relaxation_time(occupancy: Array, equilibrium: float, time: float) -> float:
    """Return the slowest time constant of a decay to equilibrium, NaN where it cannot be fitted.

    Parameters
    ----------
    occupancy
        Occupancies of a state at 0, 1, 2, ... times `time`, from a start off equilibrium.
    equilibrium
        The occupancy at equilibrium.
    time
        Time between two occupancies.

    Notes
    -----
    An exponential is fitted where the deviation from equilibrium is between 1/3 and 1/50 of the initial one.
    """
    if occupancy[0] == equilibrium:
        return float("nan")
    excess = (occupancy - equilibrium) / (occupancy[0] - equilibrium)
    low = np.flatnonzero(excess < 1 / 50)
    used = np.arange(len(excess)) < (low[0] if len(low) else len(excess))
    used &= excess < 1 / 3
    if used.sum() < 3:
        return float("nan")
    moments = np.arange(len(excess))[used] * time
    slope = np.polyfit(moments, np.log(excess[used]), 1, w=excess[used])[0]
    return float(-1.0 / slope) if slope < 0 else float("nan")


class UnbiasedRoute(Route):
    """Walkers that continue from the end of the biased route without a bias.

    With their weights the ensemble is stationary if the biased route is right. A block holds one weighted
    histogram for each of several independent groups of walkers.

    Attributes
    ----------
    groups
        Number of groups.
    source
        The route that gives the starting configurations and their weights.
    """

    name = "unbiased"
    title = "unbiased MD from the weighted configurations of the biased route"
    equilibration = 0
    groups = 16
    source: ClassVar[type[BiasedRoute]] = BiasedRoute

    def __init__(self, system: System, folder: Path, seed: int = 2) -> None:
        super().__init__(system, folder, seed)
        self.weights = torch.zeros(0)
        self.occupancy: list[float] = []
        self.energies: list[Array] = []

    def start(self) -> None:
        """Take walkers and weights from the biased route.

        Raises
        ------
        UserError
            If the biased route has no production yet.
        """
        biased = self.source(self.system, self.folder)
        if not biased.load() or not biased.blocks:
            raise UserError(
                f"route unbiased starts from route biased, which has no samples in {self.folder}: build it first "
                "(--route biased)"
            )
        self.weights = biased.weights().double().cpu()
        self.dynamics = self.langevin(self.system.reduced_energy_and_gradient, biased.dynamics.positions)
        self._note_occupancy(self.system.collective_variables(self.dynamics.positions))

    def _note_occupancy(self, s: torch.Tensor) -> None:
        basin = self.system.basins[-1]
        inside = basin.contains(list(s.double().cpu().numpy().T))
        self.occupancy.append(float(np.mean(inside)))

    def advance(self) -> None:
        """Sample a block; the first one starts from the biased route."""
        if not self.blocks:
            self.start()
        shape = (self.groups, *self.system.cvs.bins)
        histogram = np.zeros((self.groups, int(np.prod(self.system.cvs.bins))))
        group = np.arange(self.walkers) * self.groups // self.walkers
        weights = self.weights.numpy()
        energy = np.zeros(self.groups)
        for _ in range(self.block_steps // self.stride):
            self.dynamics.step(self.stride)
            s = self.system.collective_variables(self.dynamics.positions)
            bins = self.system.cvs.bin_index(s.double().cpu().numpy())
            np.add.at(histogram, (group, bins), weights)
            energy += np.bincount(group, weights * self.dynamics.energies.double().cpu().numpy(), self.groups)
        self._note_occupancy(s)
        self.check_state_space(self.dynamics.positions)
        self.energies.append(energy)
        self.blocks.append(histogram.reshape(shape))

    def summary(self) -> str:
        """Describe the progress: the block, and the unweighted and weighted population of the last basin."""
        mask = basin_mask(self.system.cvs, self.system.basins[-1].contains)
        total = np.sum(self.blocks, axis=(0, 1))
        return (
            f"block {len(self.blocks)}, {self.system.basins[-1].name}: {self.occupancy[-1]:.4f} of the walkers, "
            f"{total[mask].sum() / total.sum():.5f} of the weight"
        )

    def group_histograms(self) -> Array:
        """Return the weighted histograms of the independent groups of walkers ``[groups, bins, bins]``."""
        return np.asarray(self.kept().sum(axis=0))

    def mean_energy(self) -> tuple[float, float]:
        """Return the mean reduced energy at equilibrium and its standard error."""
        energy = np.sum(self.energies, axis=0)
        weight = np.sum(self.blocks, axis=(0, 2, 3))
        mean = energy.sum() / weight.sum()
        residual = energy - mean * weight
        return float(mean), float(residual.std(ddof=1) * np.sqrt(self.groups) / weight.sum())

    def relaxation_time(self, equilibrium: float) -> float:
        """Return the relaxation time of the last basin's occupancy in ps, NaN where it cannot be fitted."""
        return relaxation_time(np.array(self.occupancy), equilibrium, self.block_steps * TIME_STEP)

    def state(self) -> dict[str, Any]:
        """Return walkers, weights, occupancies and energies."""
        return {
            "dynamics": self.dynamics.state_dict(),
            "weights": self.weights,
            "occupancy": torch.tensor(self.occupancy, dtype=torch.float64),
            "energies": torch.from_numpy(np.array(self.energies)),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.dynamics = self.langevin(self.system.reduced_energy_and_gradient, state["dynamics"]["positions"])
        self.dynamics.load_state_dict(state["dynamics"])
        self.weights = state["weights"]
        self.occupancy = state["occupancy"].tolist()
        self.energies = list(state["energies"].numpy())
