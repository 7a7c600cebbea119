"""Well-tempered metadynamics with many walkers, then production under the frozen bias."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from cgbench.contracts.pmf import PMF, basin_mask
from cgbench.contracts.system import System
from cgbench_methods.lib.sampling.bias import FourierBias, biased
from cgbench_systems.molecular.reference.route import Array, Route, log

__all__ = ["BiasedRoute"]

OFFSET = 15.0  # kT, subtracted from the bias in the weights to keep them near one


class BiasedRoute(Route):
    """The route that gives the reference.

    The walkers share one well-tempered bias on the collective variables. After `hills` depositions it is frozen, and
    every sample of the production has the weight exp(bias).

    Attributes
    ----------
    hills, pace
        Number of depositions (each by all walkers), and steps between them.
    height, width, bias_factor
        Height of one deposition over all walkers in kT, width of a hill in rad, and the bias factor.
    """

    name = "biased"
    title = "well-tempered metadynamics, then production under its frozen bias, reweighted"
    equilibration = 40
    hills, pace = 300, 100
    height, width, bias_factor = 25.0, 0.25, 15.0

    def __init__(self, system: System, folder: Path, seed: int = 0) -> None:
        super().__init__(system, folder, seed)
        self.bias = FourierBias(system.cvs)
        start = system.initial_configuration()[None].repeat(self.walkers, 1, 1)
        self.evaluate = biased(self.bias, system.reduced_energy_and_gradient, system.collective_variables)
        self.dynamics = self.langevin(self.evaluate, start)
        self.deposits = 0

    def advance(self) -> None:
        """Finish the metadynamics, then sample a block under the frozen bias."""
        self._metadynamics()
        histogram = np.zeros(self.system.cvs.bins)
        for _ in range(self.block_steps // self.stride):
            self.dynamics.step(self.stride)
            s, bias = self.evaluate.last
            weights = torch.exp(bias.double() - OFFSET).cpu().numpy()
            histogram += self.system.cvs.histogram(s.double().cpu().numpy(), weights)
        self.check_state_space(self.dynamics.positions)
        self.blocks.append(histogram)

    def _metadynamics(self) -> None:
        while self.deposits < self.hills:
            self.dynamics.step(self.pace)
            s, bias = self.evaluate.last
            heights = self.height / self.walkers * torch.exp(-bias / (self.bias_factor - 1.0))
            self.bias.deposit(s, heights, (self.width, self.width))
            self.deposits += 1
            if self.deposits % 20 == 0:
                log(f"biased: deposition {self.deposits} of {self.hills}, bias up to {float(bias.max()):.1f} kT")
                self.save()

    def exposure(self) -> Array:
        """Return how often each bin is visited relative to equilibrium, ``exp(offset - bias)`` at its centre."""
        return np.asarray(np.exp(OFFSET - self.bias.on_grid()))

    def weights(self) -> torch.Tensor:
        """Return the equilibrium weights of the walkers' current positions, ``[walkers]``."""
        bias = self.bias.energy(self.system.collective_variables(self.dynamics.positions).double())
        return torch.exp(bias - bias.max())

    def summary(self) -> str:
        """Describe the progress: the block, and the population of the last basin."""
        basin = self.system.basins[-1]
        pmf = PMF(self.system.cvs, np.sum(self.blocks, axis=0))
        population = pmf.population(basin_mask(self.system.cvs, basin.contains))
        return f"block {len(self.blocks)}, population of {basin.name} {population:.5f}"

    def state(self) -> dict[str, Any]:
        """Return walkers and bias."""
        return {
            "dynamics": self.dynamics.state_dict(),
            "bias": self.bias.state_dict(),
            "deposits": self.deposits,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.dynamics.load_state_dict(state["dynamics"])
        self.bias.load_state_dict(state["bias"])
        self.deposits = int(state["deposits"])
