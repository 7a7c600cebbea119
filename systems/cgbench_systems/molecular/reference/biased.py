"""Well-tempered metadynamics of many walkers, then production under the frozen bias."""

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
    """The route that makes the reference.

    Walkers share one well-tempered bias on the two CVs until it holds still; then it is frozen, and every
    configuration counts with the weight exp(bias).
    """

    name = "biased"
    title = "well-tempered metadynamics, then production under its frozen bias, reweighted"
    equilibration = 40
    deposits_wanted, pace = 300, 100
    height, width, bias_factor = 25.0, 0.25, 15.0  # kT of a deposit of all walkers, rad, -

    def __init__(self, system: System, folder: Path, seed: int = 0) -> None:
        super().__init__(system, folder, seed)
        self.bias = FourierBias(system.cvs)
        start = system.initial_configuration()[None].repeat(self.walkers, 1, 1)
        self.evaluate = biased(self.bias, system.reduced_energy_and_gradient, system.collective_variables)
        self.dynamics = self.langevin(self.evaluate, start)
        self.deposits = 0

    def advance(self) -> None:
        """Deposit all hills first, then sample a block."""
        if self.deposits < self.deposits_wanted:
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
        while self.deposits < self.deposits_wanted:
            self.dynamics.step(self.pace)
            s, bias = self.evaluate.last
            heights = self.height / self.walkers * torch.exp(-bias / (self.bias_factor - 1.0))
            self.bias.deposit(s, heights, (self.width, self.width))
            self.deposits += 1
            if self.deposits % 20 == 0:
                log(f"biased: deposit {self.deposits} of {self.deposits_wanted}, bias to {float(bias.max()):.1f} kT")
                self.save()

    def exposure(self) -> Array:
        """How often each bin is visited relative to equilibrium, ``exp(offset - bias)`` at its centre."""
        return np.asarray(np.exp(OFFSET - self.bias.on_grid()))

    def weights(self) -> torch.Tensor:
        """Weights of the walkers' present positions for equilibrium, ``[walkers]``."""
        bias = self.bias.energy(self.system.collective_variables(self.dynamics.positions).double())
        return torch.exp(bias - bias.max())

    def summary(self) -> str:
        """Block and population of the region beyond the barrier."""
        text = f"block {len(self.blocks)}"
        if self.system.basins and self.blocks:
            basin = self.system.basins[-1]
            p = PMF(self.system.cvs, np.sum(self.blocks, axis=0))
            text += f", population of {basin.name} {p.population(basin_mask(self.system.cvs, basin.contains)):.5f}"
        return text

    def state(self) -> dict[str, Any]:
        """Walkers and bias."""
        return {
            "dynamics": self.dynamics.state_dict(),
            "bias": self.bias.state_dict(),
            "deposits": self.deposits,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.dynamics.load_state_dict(state["dynamics"])
        self.bias.load_state_dict(state["bias"])
        self.deposits = int(state["deposits"])
