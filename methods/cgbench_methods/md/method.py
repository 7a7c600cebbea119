"""The method ``md``: unbiased molecular dynamics with a histogram estimate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.declarations import Given
from cgbench.contracts.maps import Estimate
from cgbench.contracts.method import AuxiliaryEstimate, Method
from cgbench.contracts.pmf import PMF
from cgbench.counting.streams import Streams
from cgbench.errors import UserError
from cgbench_methods.lib.estimators.smoothing import smoothed_pmf
from cgbench_methods.lib.sampling.langevin import Langevin
from cgbench_methods.lib.sampling.metropolis import Metropolis
from cgbench_methods.lib.sampling.overdamped import Overdamped
from cgbench_methods.lib.sampling.turns import Turns
from cgbench_methods.lib.sampling.visits import Visits
from cgbench_methods.lib.sampling.walkers import BLOCK, advance, restore_diverged, walkers_at_start
from cgbench_methods.md.config import MDConfig

__all__ = ["MolecularDynamics"]

REPLICATES = 16  # largest number of groups of walkers per group size


class MolecularDynamics(Method):
    """Unbiased molecular dynamics with a histogram estimate.

    Molecules have Langevin dynamics. Systems without masses have random-walk Metropolis sampling, MALA or overdamped
    Langevin dynamics.
    """

    name = "md"
    Config = MDConfig
    uncounted_in_publication = frozenset({"equilibrate"})
    given = (
        Given(
            collective_variables="histogram only",
            state_space="samples outside have no weight",
            masses="Langevin dynamics",
            gradient="every step",
            start="all walkers",
        ),
    )

    def __init__(self, problem: Any, config: MDConfig, streams: Streams) -> None:
        super().__init__(problem, config, streams)
        if config.compile:
            problem.compile()
        generator = streams.torch("dynamics", problem.device)
        self.dynamics: Langevin | Metropolis | Overdamped
        if config.dynamics == "metropolis":
            self.dynamics = walkers_at_start(problem, config, generator)
        else:
            self.dynamics = _overdamped(problem, config, generator)
        self.maps, self.states = problem.maps, problem.states
        sizes = [math.prod(one.cvs.bins) for one in self.maps]
        # visits of the bins of each map [half, walker, bin]; and of states, the last column being none [walker, states]
        self.counts = [torch.zeros(2, config.walkers, size, dtype=torch.int32) for size in sizes]
        states = len(self.states.names) if self.states else 0
        self.state_counts = torch.zeros(config.walkers, states + 1, dtype=torch.int32)
        self._rows = torch.arange(config.walkers)
        self.turns = Turns(problem, config.walkers)
        self.visits = Visits(problem.cvs, config.walkers)
        self._left = False  # whether a walker was outside the state space after the last block
        self.equilibrated = 0
        self.produced = 0

    def estimates(self) -> Iterator[PMF | Estimate]:
        """Yield the histogram estimate at logarithmically spaced numbers of steps."""
        config: MDConfig = self.config
        with self.problem.phase("equilibrate"):
            unusable = advance(self.problem, self.dynamics, config.equilibration_steps - self.equilibrated)
            self._left = self._left or bool(unusable.any())
            self.equilibrated = config.equilibration_steps
        while self.produced < config.steps:
            goal = self._next_goal()
            with self.problem.phase("production"):
                while self.produced < goal:
                    self._block(min(BLOCK, goal - self.produced))
            self.progress = self.produced / config.steps
            self.status = f"{self.produced:,} of {config.steps:,} steps of {config.walkers} walkers"
            if not all(bool(counts.any()) for counts in self.counts):
                continue
            yield self._estimate(self._histogram, slice(None))
        if not all(bool(counts.any()) for counts in self.counts):
            raise ValueError(
                "no sample is usable: every walker diverged (diverged_walker), left the state space "
                "(outside_state_space), or left the domain of the collective variables"
            )

    def auxiliary_estimates(self) -> Sequence[AuxiliaryEstimate]:
        """Return the smoothed estimate, and both estimators on groups of 1, 8, 64, ... walkers.

        A group is an independent simulation that cost its share of the steps. One run thus also gives the curves of
        cheaper simulations, whose walkers still run long enough to decorrelate from their start.
        """
        found = [self._auxiliary("smoothed", self.config.walkers, 0)]
        size = 1
        while size <= self.config.walkers // 2:
            for replicate in range(min(REPLICATES, self.config.walkers // size)):
                found += [self._auxiliary(name, size, replicate) for name in ("histogram", "smoothed")]
            size *= 8
        return found

    def _auxiliary(self, name: str, size: int, replicate: int) -> AuxiliaryEstimate:
        pmf = self._histogram if name == "histogram" else self._smoothed
        walkers = slice(replicate * size, (replicate + 1) * size)
        return AuxiliaryEstimate(f"{name}/{size}", replicate, size / self.config.walkers, self._estimate(pmf, walkers))

    def _estimate(
        self, pmf: Callable[[CollectiveVariables, NDArray[np.float64]], PMF], walkers: slice
    ) -> PMF | Estimate:
        """Apply an estimator to the counts of some walkers, for each map."""
        pmfs = []
        for one, counts in zip(self.maps, self.counts, strict=True):
            halves = counts[:, walkers].sum(1).double().numpy().reshape(2, *one.cvs.bins)
            pmfs.append(pmf(one.cvs, halves))
        if len(pmfs) == 1 and self.states is None:
            return pmfs[0]
        populations = None
        if self.states is not None:
            visits = self.state_counts[walkers].sum(0).double().numpy() + self.config.pseudocount
            populations = dict(zip(self.states.names, (visits / visits.sum()).tolist(), strict=False))
        return Estimate(tuple(pmfs), populations)

    def _histogram(self, cvs: CollectiveVariables, halves: NDArray[np.float64]) -> PMF:
        return PMF.from_counts(cvs, halves.sum(0), self.config.pseudocount)

    def _smoothed(self, cvs: CollectiveVariables, halves: NDArray[np.float64]) -> PMF:
        return smoothed_pmf(cvs, (halves[0], halves[1]), self.config.smoothing_pseudocount)

    def _block(self, steps: int) -> None:
        """Advance all walkers by `steps`, and count the samples of walkers that did not diverge.

        Samples outside the state space are left out. They are looked for only if a walker is outside at the start or
        at the end of the block, because the test of every sample takes time.
        """
        samples = []
        for _ in range(steps):
            self.dynamics.step()
            self.produced += 1
            if self.produced % self.config.stride == 0:
                s = self.problem.collective_variables(self.dynamics.positions).double().cpu().numpy()
                samples.append((self.produced // self.config.stretch % 2, s, self.dynamics.positions))
        valid = ~restore_diverged(self.problem, self.dynamics).cpu()
        leave = bool(self.problem.report_state_space(self.dynamics.positions).any())
        look, self._left = leave or self._left, leave
        self.turns.note(self.dynamics.positions, steps)
        if samples:
            self.visits.note(samples[-1][1])
        for half, s, positions in samples:
            usable = valid & self.problem.in_state_space(positions).cpu() if look else valid
            for one, counts in zip(self.maps, self.counts, strict=True):
                bins = torch.from_numpy(one.cvs.bin_index(one.select(s)))
                counted = (bins >= 0) & usable
                counts[half, self._rows[counted], bins[counted]] += 1
            if self.states is not None:
                self._count_states(s, usable)

    def _count_states(self, s: NDArray[np.float64], usable: torch.Tensor) -> None:
        assert self.states is not None
        index = torch.from_numpy(self.states.assign(s))
        index = index.where(index >= 0, len(self.states.names))
        self.state_counts[self._rows[usable], index[usable]] += 1

    def _next_goal(self) -> int:
        """Return the steps of the next estimate: logarithmically spaced, at most a twentieth of the run ahead.

        A killed run loses the steps since the last estimate.
        """
        config: MDConfig = self.config
        factor = 10 ** (1 / config.estimates_per_decade)
        least = max(math.ceil(config.steps / 1000), config.stride)
        ahead = min(math.ceil(self.produced * factor), self.produced + math.ceil(config.steps / 20))
        return min(config.steps, max(least, ahead))

    def diagnostics(self) -> dict[str, Any]:
        """Return round trips along the CVs and turns of side chains, and whether both happened often enough."""
        warnings = self.visits.warnings(self.problem.cvs.names) + self.turns.warnings()
        found = {"round_trips_per_walker": self.visits.round_trips()} | self.turns.diagnostics()
        return found | {"reliable": not warnings, "warnings": warnings}

    def state_dict(self) -> dict[str, Any]:
        """Return walkers, counts and steps."""
        return {
            "dynamics": self.dynamics.state_dict(),
            "counts": self.counts,
            "state_counts": self.state_counts,
            "equilibrated": self.equilibrated,
            "produced": self.produced,
            "left": self._left,
            "turns": self.turns.state_dict(),
            "visits": self.visits.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.dynamics.load_state_dict(state["dynamics"])
        self.counts, self.state_counts = list(state["counts"]), state["state_counts"]
        self.equilibrated, self.produced = int(state["equilibrated"]), int(state["produced"])
        self._left = bool(state.get("left", False))
        self.turns.load_state_dict(state["turns"])
        self.visits.load_state_dict(state["visits"])


def _overdamped(problem: Any, config: MDConfig, generator: torch.Generator) -> Overdamped:
    """Make the walkers of MALA or overdamped Langevin dynamics in the initial configuration."""
    if problem.masses is not None:
        raise UserError(f"dynamics={config.dynamics} is for systems without masses; leave it out for molecules")
    if "gradient" not in problem.traits:
        raise UserError(f"dynamics={config.dynamics} needs a gradient, which the system lacks; use dynamics=metropolis")
    start = problem.initial_configuration()
    positions = start.expand(config.walkers, *start.shape)
    adjusted = config.dynamics == "mala"
    return Overdamped(problem.reduced_energy_and_gradient, positions, config.step_size, generator, adjusted)
