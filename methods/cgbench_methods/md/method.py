"""The method ``md``: unbiased molecular dynamics with a histogram estimate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.method import AuxiliaryEstimate, Method
from cgbench.contracts.pmf import PMF
from cgbench.counting.streams import Streams
from cgbench_methods.lib.estimators.smoothing import smoothed_pmf
from cgbench_methods.lib.sampling.walkers import BLOCK, advance, restore_diverged, walkers_at_start
from cgbench_methods.md.config import MDConfig

__all__ = ["MolecularDynamics"]

REPLICATES = 16  # largest number of groups of walkers per group size


class MolecularDynamics(Method):
    """Unbiased molecular dynamics (Langevin, or Metropolis without masses) with a histogram estimate."""

    name = "md"
    Config = MDConfig
    uncounted_in_publication = frozenset({"equilibrate"})

    def __init__(self, problem: Any, config: MDConfig, streams: Streams) -> None:
        super().__init__(problem, config, streams)
        if config.compile:
            problem.compile()
        self.dynamics = walkers_at_start(problem, config, streams.torch("dynamics", problem.device))
        bins = math.prod(problem.cvs.bins)
        self.counts = torch.zeros(2, config.walkers, bins, dtype=torch.int32)  # [half, walker, bin]
        self._rows = torch.arange(config.walkers)
        self._left = False  # whether a walker was outside the state space after the last block
        self.equilibrated = 0
        self.produced = 0

    def estimates(self) -> Iterator[PMF]:
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
            yield self._histogram(self.counts)

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
        counts = self.counts[:, replicate * size : (replicate + 1) * size]
        pmf = self._histogram(counts) if name == "histogram" else self._smoothed(counts)
        return AuxiliaryEstimate(f"{name}/{size}", replicate, size / self.config.walkers, pmf)

    def _halves(self, counts: torch.Tensor) -> NDArray[np.float64]:
        return counts.sum(1).double().numpy().reshape(2, *self.problem.cvs.bins)

    def _histogram(self, counts: torch.Tensor) -> PMF:
        return PMF.from_counts(self.problem.cvs, self._halves(counts).sum(0), self.config.pseudocount)

    def _smoothed(self, counts: torch.Tensor) -> PMF:
        first, second = self._halves(counts)
        return smoothed_pmf(self.problem.cvs, (first, second), self.config.smoothing_pseudocount)

    def _block(self, steps: int) -> None:
        """Advance all walkers by `steps`, and count the samples of walkers that did not diverge.

        Samples outside the state space are left out. They are looked for only if a walker is outside at the start or
        at the end of the block, because the test of every sample takes time.
        """
        visits = []
        for _ in range(steps):
            self.dynamics.step()
            self.produced += 1
            if self.produced % self.config.stride == 0:
                s = self.problem.collective_variables(self.dynamics.positions).double().cpu().numpy()
                half = self.produced // self.config.stretch % 2
                visits.append((half, self.problem.cvs.bin_index(s), self.dynamics.positions))
        valid = ~restore_diverged(self.problem, self.dynamics).cpu()
        leave = bool(self.problem.report_state_space(self.dynamics.positions).any())
        look, self._left = leave or self._left, leave
        for half, index, positions in visits:
            bins = torch.from_numpy(index)
            counted = (bins >= 0) & valid
            if look:
                counted &= self.problem.in_state_space(positions).cpu()
            self.counts[half, self._rows[counted], bins[counted]] += 1

    def _next_goal(self) -> int:
        """Return the steps of the next estimate: logarithmically spaced, at most a twentieth of the run ahead.

        A killed run loses the steps since the last estimate.
        """
        config: MDConfig = self.config
        factor = 10 ** (1 / config.estimates_per_decade)
        least = max(math.ceil(config.steps / 1000), config.stride)
        ahead = min(math.ceil(self.produced * factor), self.produced + math.ceil(config.steps / 20))
        return min(config.steps, max(least, ahead))

    def state_dict(self) -> dict[str, Any]:
        """Return walkers, counts and steps."""
        return {
            "dynamics": self.dynamics.state_dict(),
            "counts": self.counts,
            "equilibrated": self.equilibrated,
            "produced": self.produced,
            "left": self._left,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.dynamics.load_state_dict(state["dynamics"])
        self.counts = state["counts"]
        self.equilibrated, self.produced = int(state["equilibrated"]), int(state["produced"])
        self._left = bool(state.get("left", False))
