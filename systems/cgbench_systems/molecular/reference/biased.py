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
from cgbench_systems.molecular.reference.side_chains.bias import SummedBias, TorsionBias
from cgbench_systems.molecular.reference.side_chains.mixing import Mixing
from cgbench_systems.molecular.reference.side_chains.torsions import SideTorsions
from cgbench_systems.molecular.reference.statistics import FEWEST_GROUPS, grouped

__all__ = ["BiasedRoute"]

OFFSET = 15.0  # kT, subtracted from the bias in the weights to keep them near one


class BiasedRoute(Route):
    """The route that gives the reference.

    The walkers share one well-tempered bias on the collective variables. After `hills` depositions it is frozen, and
    every sample of the production has the weight exp(bias).

    Side chains (`SideTorsions`) start in all their rotamers, and a bias along each torsion (`TorsionBias`) is added to
    that on the collective variables. `mixing` records whether the walkers forget the rotamers they started in.

    Attributes
    ----------
    hills, pace
        Number of depositions (each by all walkers), and steps between them.
    height, width, bias_factor
        Height of one deposition over all walkers in kT, width of a hill in rad, and the bias factor.
    walker_groups
        With more than one, a block holds a histogram for each of so many groups of walkers, which are independent
        under the frozen bias. With one, errors come from successive groups of blocks (`group`).
    """

    name = "biased"
    title = "well-tempered metadynamics, then production under its frozen bias, reweighted"
    equilibration = 40
    hills, pace = 300, 100
    height, width, bias_factor = 25.0, 0.25, 15.0
    walker_groups = 1

    def __init__(self, system: System, folder: Path, seed: int = 0) -> None:
        super().__init__(system, folder, seed)
        self.bias = FourierBias(system.cvs)
        self.torsions = SideTorsions(system)
        self.torsion_bias = TorsionBias(len(self.torsions))
        self.total_bias = SummedBias(self.bias, self.torsion_bias)
        start = self.torsions.starts_at_minimum(self.walkers, seed)
        self.started = self.torsions.angles(start).double().cpu()
        self.mixing: Mixing | None = None
        self.moments = torch.zeros(2, dtype=torch.float64)  # sums of exp(torsion bias) and of its square
        self.evaluate = biased(self.total_bias, system.reduced_energy_and_gradient, self.torsions.with_cvs)
        self.dynamics = self.langevin(self.evaluate, start)
        self.deposits = 0

    def advance(self) -> None:
        """Finish the metadynamics, then sample a block under the frozen bias."""
        self._metadynamics()
        if self.torsions.atoms and self.mixing is None:
            self.mixing = Mixing(self.torsion_bias.freeze(), self.started.numpy())
        histogram = np.zeros((self.walker_groups, *self.system.cvs.bins))
        for _ in range(self.block_steps // self.stride):
            self.dynamics.step(self.stride)
            s, bias = self.evaluate.last
            weights = torch.exp(bias.double() - OFFSET).cpu().numpy()
            values = s[:, : len(self.system.cvs)].double().cpu().numpy()
            parts = zip(histogram, *(np.array_split(a, self.walker_groups) for a in (values, weights)), strict=True)
            for part, its_values, its_weights in parts:
                part += self.system.cvs.histogram(its_values, its_weights)
            self._note_rotamers(s, weights)
        self.check_state_space(self.dynamics.positions)
        self.blocks.append(histogram if self.walker_groups > 1 else histogram[0])

    def _note_rotamers(self, s: torch.Tensor, weights: Array) -> None:
        """Record rotamers after the equilibration."""
        more = self.total_bias.parts[1]
        if self.mixing is None or more is None or len(self.blocks) < self.equilibration:
            return
        self.mixing.update(s[:, len(self.system.cvs) :], weights)
        factor = torch.exp(more.double()).cpu()
        self.moments += torch.stack([factor.sum(), factor.square().sum()])

    def _metadynamics(self) -> None:
        while self.deposits < self.hills:
            self.dynamics.step(self.pace)
            s, _ = self.evaluate.last
            bias, _ = self.total_bias.parts
            heights = self.height / self.walkers * torch.exp(-bias / (self.bias_factor - 1.0))
            self.bias.deposit(s[:, : len(self.system.cvs)], heights, (self.width, self.width))
            self.torsion_bias.deposit(s[:, len(self.system.cvs) :], self.pace)
            self.deposits += 1
            if self.deposits % 20 == 0:
                log(f"biased: deposition {self.deposits} of {self.hills}, bias up to {float(bias.max()):.1f} kT")
                self.save()

    @property
    def fewest_blocks(self) -> int:
        """Least number of blocks for a certificate."""
        return self.equilibration + (FEWEST_GROUPS if self.walker_groups > 1 else FEWEST_GROUPS * self.group)

    def independent_groups(self) -> Array:
        """Return the histograms of independent groups of samples, ``[groups, bins, bins]``."""
        return np.asarray(self.kept().sum(axis=0)) if self.walker_groups > 1 else grouped(self.kept(), self.group)

    def successive_groups(self) -> Array:
        """Return the histograms of successive stretches of time, ``[groups, bins, bins]``."""
        return np.asarray(self.kept().sum(axis=1)) if self.walker_groups > 1 else grouped(self.kept(), self.group)

    def halves_of_time(self) -> tuple[Array, Array]:
        """Return the histograms of independent groups over the first and the second half of the production."""
        if self.walker_groups > 1:
            first, second = np.array_split(self.kept(), 2)
            return np.asarray(first.sum(axis=0)), np.asarray(second.sum(axis=0))
        first, second = np.array_split(grouped(self.kept(), self.group), 2)
        return first, second

    def exposure(self) -> Array:
        """Return how often each bin is visited relative to equilibrium, ``exp(offset - bias)`` at its centre.

        Under a bias on side-chain torsions, visits count as many as the effective number of samples that their
        weights leave (Kish).
        """
        exposure = np.asarray(np.exp(OFFSET - self.bias.on_grid()))
        first, second = self.moments.tolist()
        return exposure * (first / second) if second > 0 else exposure

    def weights(self) -> torch.Tensor:
        """Return the equilibrium weights of the walkers' current positions, ``[walkers]``."""
        bias = self.total_bias.energy(self.torsions.with_cvs(self.dynamics.positions).double())
        return torch.exp(bias - bias.max())

    def summary(self) -> str:
        """Describe the progress: the block, and the population of the last basin."""
        basin = self.system.basins[-1]
        pmf = PMF(self.system.cvs, np.sum(self.blocks, axis=(0, 1) if self.walker_groups > 1 else 0))
        population = pmf.population(basin_mask(self.system.cvs, basin.contains))
        return f"block {len(self.blocks)}, population of {basin.name} {population:.5f}"

    def state(self) -> dict[str, Any]:
        """Return walkers, biases, and what is known about the rotamers."""
        return {
            "dynamics": self.dynamics.state_dict(),
            "bias": self.bias.state_dict(),
            "torsion_bias": self.torsion_bias.state_dict(),
            "deposits": self.deposits,
            "started": self.started,
            "moments": self.moments,
            "mixing": None if self.mixing is None else self.mixing.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.dynamics.load_state_dict(state["dynamics"])
        self.bias.load_state_dict(state["bias"])
        self.deposits = int(state["deposits"])
        if not self.torsions.atoms:
            return
        self.torsion_bias.load_state_dict(state["torsion_bias"])
        self.started, self.moments = state["started"], state["moments"]
        self.mixing = None if state["mixing"] is None else Mixing.from_state(state["mixing"])
