"""Routes to the reference of several maps: under a frozen bias on all torsions, and without a bias from its samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from cgbench.contracts.system import System, maps_of
from cgbench.errors import UserError
from cgbench_methods.lib.estimators.exposure import exposure
from cgbench_methods.lib.sampling.bias import biased
from cgbench_systems.molecular.reference.configurations import HEATING_FRICTION
from cgbench_systems.molecular.reference.route import FRICTION, Array, Route, log
from cgbench_systems.molecular.reference.several_maps.bias import TorsionsBias
from cgbench_systems.molecular.reference.several_maps.starts import spread_starts
from cgbench_systems.molecular.reference.side_chains.bias import BINS
from cgbench_systems.molecular.reference.side_chains.mixing import Mixing
from cgbench_systems.molecular.reference.side_chains.torsions import SideTorsions
from cgbench_systems.molecular.reference.statistics import FEWEST_GROUPS

__all__ = ["BiasedMaps", "Layout", "UnbiasedMaps", "histogram_rows"]


class Layout:
    """Where the histograms of all maps, the states and the rest are in one row of numbers.

    Attributes
    ----------
    maps, states
        Maps and states of the system.
    size
        Length of a row: bins of all maps, states, and one for samples in no state.

    Parameters
    ----------
    system
        The molecule.
    """

    def __init__(self, system: System) -> None:
        self.maps, self.states = maps_of(system), system.states
        self._bins = [int(np.prod(one.cvs.bins)) for one in self.maps]
        self._ends = np.cumsum(self._bins).tolist()
        self.size = self._ends[-1] + (len(self.states.names) if self.states else 0) + 1

    def columns(self, s: Array) -> np.ndarray:
        """Return the numbers of a row that samples ``s [samples, cvs]`` belong to, ``[maps + 1, samples]``."""
        starts = [0, *self._ends]
        found = [start + one.cvs.bin_index(one.select(s)) for start, one in zip(starts, self.maps, strict=False)]
        index = self.states.assign(s) if self.states else np.full(len(s), -1)
        return np.array([*found, np.where(index >= 0, self._ends[-1] + index, self.size - 1)])

    def map(self, rows: Array, number: int) -> Array:
        """Return the histograms of one map, ``[..., *bins]``."""
        start = ([0, *self._ends])[number]
        part = rows[..., start : start + self._bins[number]]
        return part.reshape(*rows.shape[:-1], *self.maps[number].cvs.bins)

    def state_sums(self, rows: Array) -> Array:
        """Return the sums of all states, and last of no state, ``[..., states + 1]``."""
        return rows[..., self._ends[-1] :]


def histogram_rows(layout: Layout, s: Array, weights: Array, groups: int) -> Array:
    """Return one row for each group of walkers, ``[groups, size]``."""
    group = np.arange(len(s)) * groups // len(s)
    flat = layout.columns(s) + group * layout.size
    count = groups * layout.size
    rows = np.bincount(flat.ravel(), np.broadcast_to(weights, flat.shape).ravel(), count)
    return np.asarray(rows, dtype=np.float64).reshape(groups, layout.size)


class BiasedMaps(Route):
    """The route that gives the reference: well-tempered metadynamics on all torsions, then a frozen mixture of biases.

    Walkers start from random conformations. A block holds a row (`Layout`) for each of several groups of walkers, which
    are independent under the frozen bias.

    Attributes
    ----------
    hills, pace, heating
        Number of depositions (each by all walkers), steps between them, and steps with strong friction before.
    groups
        Number of groups of walkers.
    reservoir
        Configurations drawn from the whole production by their weights, ``[walkers, atoms, 3]``.
    """

    name = "biased"
    title = (
        "well-tempered metadynamics on all torsions, then production under a frozen mixture of its biases, reweighted"
    )
    equilibration = 120  # of starts everywhere to populations: tetrapeptides need about 50 ps
    hills, pace, heating = 200, 100, 2000
    groups = 16
    kind: ClassVar[type[TorsionsBias]] = TorsionsBias

    def __init__(self, system: System, folder: Path, seed: int = 0) -> None:
        super().__init__(system, folder, seed)
        self.layout = Layout(system)
        self.torsions = SideTorsions(system)
        self.bias = self.kind(system.cvs, [one.axes for one in self.layout.maps], len(self.torsions))
        self.evaluate = biased(self.bias, system.reduced_energy_and_gradient, self.torsions.with_cvs)
        self.dynamics = self.langevin(self.evaluate, system.initial_configuration()[None].repeat(self.walkers, 1, 1))
        self.deposits, self.prepared = 0, False
        self.started = torch.zeros(self.walkers, len(system.cvs) + len(self.torsions), dtype=torch.float64)
        self.mixing: Mixing | None = None
        self.moments = np.zeros((2, self.layout.size))  # sums of weights and of their squares
        self.reservoir = torch.zeros(0)
        self._keys = torch.zeros(0, dtype=torch.float64)

    @property
    def names(self) -> list[str]:
        """Names of all torsions: CVs first."""
        return [*self.system.cvs.names, *self.torsions.names]

    def advance(self) -> None:
        """Prepare the walkers and the bias, then sample a block under the frozen bias."""
        if not self.prepared:
            self._prepare()
        self._metadynamics()
        if self.mixing is None:
            self.mixing = Mixing(self._marginals(), self.started.numpy())
        rows = np.zeros((self.groups, self.layout.size))
        weights = np.zeros(self.walkers)
        for _ in range(self.block_steps // self.stride):
            self.dynamics.step(self.stride)
            s, bias = self.evaluate.last
            weights = torch.exp(bias.double()).cpu().numpy()
            rows += self._note(s, weights)
        self.check_state_space(self.dynamics.positions)
        if len(self.blocks) >= self.equilibration:
            self._fill_reservoir()
        self.blocks.append(rows)

    def _prepare(self) -> None:
        start = spread_starts(self.system, self.torsions, self.walkers, self.seed)
        self.dynamics = self.langevin(self.evaluate, start)
        self.started = self.torsions.with_cvs(start).double().cpu()
        self.dynamics.set_friction(HEATING_FRICTION)
        self.dynamics.step(self.heating)
        self.dynamics.set_friction(FRICTION)
        self.prepared = True

    def _metadynamics(self) -> None:
        while self.deposits < self.hills:
            self.dynamics.step(self.pace)
            s, _ = self.evaluate.last
            self.bias.deposit(s)
            self.deposits += 1
            if self.deposits % 20 == 0:
                log(f"biased: deposition {self.deposits} of {self.hills}, bias up to {self.bias.largest:.1f} kT")
                self.save()
        if self.bias.offsets is None:
            self.bias.freeze()

    def _marginals(self) -> Array:
        """Return rough free energies along every torsion ``[torsions, BINS]`` in kT, from the biases."""
        axis = (np.arange(BINS) + 0.5) * 2 * np.pi / BINS - np.pi
        scale = self.bias.bias_factor / (self.bias.bias_factor - 1.0)
        rows = np.zeros((len(self.names), BINS))
        for one, term in zip(self.bias.sets, self.bias.terms, strict=True):
            grid = np.stack(np.meshgrid(*[axis] * len(one), indexing="ij"), axis=-1).reshape(-1, len(one))
            energy = -scale * term.energy(torch.from_numpy(grid)).numpy().reshape((BINS,) * len(one))
            density = np.exp(-(energy - energy.min()))
            for position, torsion in enumerate(one):
                others = tuple(k for k in range(len(one)) if k != position)
                row = -np.log(density.sum(axis=others))
                rows[torsion] = row - row.min()
        return rows

    def _note(self, s: torch.Tensor, weights: Array) -> Array:
        """Count one sample of every walker; after the equilibration also its torsions and the squares of weights."""
        values = s[:, : len(self.system.cvs)].double().cpu().numpy()
        rows = histogram_rows(self.layout, values, weights, self.groups)
        if len(self.blocks) >= self.equilibration:
            assert self.mixing is not None
            self.mixing.update(s, weights)
            self.moments += rows.sum(0), histogram_rows(self.layout, values, weights**2, 1)[0]
        return rows

    def _fill_reservoir(self) -> None:
        """Offer the walkers' configurations to the reservoir (Efraimidis and Spirakis, Inf. Proc. Lett. 97, 181, 2006).

        With weight w and uniform u, the configurations with the largest ``ln(u) / w`` are a weighted sample.
        """
        positions = self.dynamics.positions
        bias = self.bias.energy(self.torsions.with_cvs(positions).double()).cpu()
        uniform = torch.rand(len(bias), generator=self.generator, device=positions.device, dtype=torch.float64).cpu()
        keys = torch.cat([self._keys, uniform.log() / torch.exp(bias)])
        offered = torch.cat([self.reservoir.reshape(-1, *positions.shape[1:]), positions.cpu()])
        best = keys.topk(min(len(keys), self.walkers)).indices
        self.reservoir, self._keys = offered[best], keys[best]

    @property
    def fewest_blocks(self) -> int:
        """Least number of blocks for a certificate."""
        return self.equilibration + FEWEST_GROUPS

    def exposure(self, number: int) -> Array:
        """Return the effective number of samples per unit of weight in each bin of a map, shape of its grid.

        With weights w, a bin counts as many samples as ``(sum w)^2 / sum w^2``.
        """
        first, second = (self.layout.map(moment, number) for moment in self.moments)
        visits = np.divide(first**2, second, out=np.zeros_like(first), where=second > 0)
        return exposure(self.layout.maps[number].cvs, first, second, visits)

    def summary(self) -> str:
        """Describe the progress: the block, and the effective share of the samples."""
        first, second = self.layout.map(self.moments[0], 0).sum(), self.layout.map(self.moments[1], 0).sum()
        samples = max(0, len(self.blocks) - self.equilibration) * (self.block_steps // self.stride) * self.walkers
        share = first**2 / (second * samples) if samples and second > 0 else float("nan")
        return f"block {len(self.blocks)}, effective share of the samples {share:.3f}"

    def state(self) -> dict[str, Any]:
        """Return walkers, biases, moments, reservoir, and what is known about the mixing."""
        return {
            "dynamics": self.dynamics.state_dict(),
            "bias": self.bias.state_dict(),
            "deposits": self.deposits,
            "prepared": self.prepared,
            "started": self.started,
            "moments": torch.from_numpy(self.moments),
            "reservoir": self.reservoir,
            "keys": self._keys,
            "mixing": None if self.mixing is None else self.mixing.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.dynamics.load_state_dict(state["dynamics"])
        self.bias.load_state_dict(state["bias"])
        self.deposits, self.prepared = int(state["deposits"]), bool(state["prepared"])
        self.started, self.moments = state["started"], state["moments"].numpy()
        self.reservoir, self._keys = state["reservoir"], state["keys"]
        self.mixing = None if state["mixing"] is None else Mixing.from_state(state["mixing"])


class UnbiasedMaps(Route):
    """Walkers that continue from the reservoir of the biased route without a bias, all with the same weight.

    The ensemble stays as it is if the biased route is right.
    """

    name = "unbiased"
    title = "unbiased MD from configurations that the biased route drew by their weights"
    equilibration = 0
    groups = 16
    source: ClassVar[type[BiasedMaps]] = BiasedMaps

    def __init__(self, system: System, folder: Path, seed: int = 2) -> None:
        super().__init__(system, folder, seed)
        self.layout = Layout(system)
        self.energies: list[Array] = []
        self.dynamics = self.langevin(
            system.reduced_energy_and_gradient, system.initial_configuration()[None].repeat(self.walkers, 1, 1)
        )

    def _start(self) -> None:
        biased = self.source(self.system, self.folder)
        if not biased.load() or len(biased.reservoir) < self.walkers:
            raise UserError(
                f"route unbiased starts from route biased, which has too few samples in {self.folder}: build it first "
                "(--route biased)"
            )
        self.dynamics = self.langevin(self.system.reduced_energy_and_gradient, biased.reservoir)

    def advance(self) -> None:
        """Sample a block; the first one starts from the biased route."""
        if not self.blocks:
            self._start()
        rows, ones = np.zeros((self.groups, self.layout.size)), np.ones(self.walkers)
        energy = np.zeros(self.groups)
        group = np.arange(self.walkers) * self.groups // self.walkers
        for _ in range(self.block_steps // self.stride):
            self.dynamics.step(self.stride)
            s = self.system.collective_variables(self.dynamics.positions).double().cpu().numpy()
            rows += histogram_rows(self.layout, s, ones, self.groups)
            energy += np.bincount(group, self.dynamics.energies.double().cpu().numpy(), self.groups)
        self.check_state_space(self.dynamics.positions)
        self.blocks.append(rows)
        self.energies.append(energy / (np.bincount(group) * (self.block_steps // self.stride)))

    def mean_energy(self) -> tuple[float, float]:
        """Return the mean reduced energy at equilibrium and its standard error, from groups of walkers."""
        values = np.mean(self.energies, axis=0)
        return float(values.mean()), float(values.std(ddof=1) / np.sqrt(self.groups))

    def state(self) -> dict[str, Any]:
        """Return walkers and energies."""
        return {"dynamics": self.dynamics.state_dict(), "energies": torch.from_numpy(np.array(self.energies))}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.dynamics.load_state_dict(state["dynamics"])
        self.energies = list(state["energies"].numpy())
