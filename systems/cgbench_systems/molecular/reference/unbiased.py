"""Unbiased dynamics from the biased ensemble, every walker with the weight of its start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from cgbench.contracts.pmf import basin_mask
from cgbench.contracts.system import System
from cgbench.errors import UserError
from cgbench_systems.molecular.reference.biased import BiasedRoute
from cgbench_systems.molecular.reference.route import TIME_STEP, Array, Route

__all__ = ["UnbiasedRoute", "relaxation_time"]


def relaxation_time(occupancy: Array, equilibrium: float, time: float) -> float:
    """Slowest time constant of a decay to equilibrium: an exponential through its later part.

    Parameters
    ----------
    occupancy
        Occupancies of a state after 0, 1, 2, ... times `time`, from a start off equilibrium.
    equilibrium
        What they decay to.

    Notes
    -----
    The fit uses what lies between a third and a fiftieth of the first excess.
    """
    excess = (occupancy - equilibrium) / (occupancy[0] - equilibrium)
    low = np.flatnonzero(excess < 1 / 50)
    used = np.arange(len(excess)) < (low[0] if len(low) else len(excess))
    used &= excess < 1 / 3
    if used.sum() < 3:
        return float("nan")
    moments = np.arange(len(excess))[used] * time
    slope = np.polyfit(moments, np.log(excess[used]), 1, w=excess[used])[0]
    return float(-1.0 / slope)


class UnbiasedRoute(Route):
    """Walkers go on from the end of the biased route without a bias.

    Their weights make the ensemble stationary if the biased route was right. Blocks hold one weighted
    histogram for each of 16 groups of walkers, which are independent of each other.
    """

    name = "unbiased"
    title = "unbiased dynamics from the weighted configurations of the biased route"
    equilibration = 0
    groups = 16

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
            If that has not been run.
        """
        biased = BiasedRoute(self.system, self.folder)
        if not biased.load():
            raise UserError(f"route unbiased starts from route biased, which has no checkpoint in {self.folder}")
        self.weights = biased.weights().double().cpu()
        self.dynamics = self.langevin(self.system.reduced_energy_and_gradient, biased.dynamics.positions)
        self._note_occupancy(self.system.collective_variables(self.dynamics.positions))

    def _note_occupancy(self, s: torch.Tensor) -> None:
        basin = self.system.basins[-1]
        inside = basin.contains(list(s.double().cpu().numpy().T))
        self.occupancy.append(float(np.mean(inside)))

    def advance(self) -> None:
        """Sample a block."""
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
        """Block, unweighted and weighted population of the last basin."""
        mask = basin_mask(self.system.cvs, self.system.basins[-1].contains)
        total = np.sum(self.blocks, axis=(0, 1))
        return (
            f"block {len(self.blocks)}, {self.system.basins[-1].name}: {self.occupancy[-1]:.4f} of walkers, "
            f"{total[mask].sum() / total.sum():.5f} of weight"
        )

    def group_histograms(self) -> Array:
        """Weighted histograms of the independent groups of walkers ``[groups, bins, bins]``."""
        return np.asarray(np.sum(self.blocks, axis=0))

    def mean_energy(self) -> tuple[float, float]:
        """Mean reduced energy at equilibrium and its standard error."""
        energy = np.sum(self.energies, axis=0)
        weight = np.sum(self.blocks, axis=(0, 2, 3))
        mean = energy.sum() / weight.sum()
        residual = energy - mean * weight
        return float(mean), float(residual.std(ddof=1) * np.sqrt(self.groups) / weight.sum())

    def relaxation_time(self, equilibrium: float) -> float:
        """Relaxation time of the last basin's occupancy in ps."""
        return relaxation_time(np.array(self.occupancy), equilibrium, self.block_steps * TIME_STEP)

    def state(self) -> dict[str, Any]:
        """Walkers, weights and what was measured on the way."""
        return {
            "dynamics": self.dynamics.state_dict(),
            "weights": self.weights,
            "occupancy": torch.tensor(self.occupancy, dtype=torch.float64),
            "energies": torch.from_numpy(np.array(self.energies)),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.dynamics = self.langevin(self.system.reduced_energy_and_gradient, state["dynamics"]["positions"])
        self.dynamics.load_state_dict(state["dynamics"])
        self.weights = state["weights"].cpu()
        self.occupancy = state["occupancy"].tolist()
        self.energies = list(state["energies"].cpu().numpy())
