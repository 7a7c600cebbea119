"""Plain molecular dynamics: the baseline that every method is measured against."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from cgbench.contracts.method import AuxiliaryEstimate, Method, MethodConfig
from cgbench.contracts.pmf import PMF
from cgbench.counting.streams import Streams
from cgbench_methods.lib.estimators.smoothing import smoothed_pmf
from cgbench_methods.lib.sampling.walkers import BLOCK, advance, end_block, make_walkers

__all__ = ["MDConfig", "MolecularDynamics"]

REPLICATES = 16  # groups of walkers that stand for independent simulations, at most


class MDConfig(MethodConfig):
    """Settings of plain molecular dynamics."""

    walkers: int = Field(256, ge=1, description="trajectories, all from the initial configuration")
    steps: int = Field(10_000, ge=1, description="production steps of each")
    equilibration_steps: int = Field(1_000, ge=0, description="steps of each before counting starts")
    stride: int = Field(1, ge=1, description="steps between counted configurations")
    time_step: float = Field(0.001, gt=0, description="ps; molecules only")
    friction: float = Field(1.0, gt=0, description="1/ps; molecules only")
    step_size: float = Field(0.1, gt=0, description="of Metropolis proposals; systems without masses only")
    pseudocount: float = Field(0.5, gt=0, description="added to each bin of the histogram")
    estimates_per_decade: int = Field(8, ge=1)
    smoothing_pseudocount: float = Field(0.1, gt=0, description="the same for the smoothed estimate")
    stretch: int = Field(2_000, ge=1, description="steps that one half, then the other, of the validation takes")
    compile: bool = Field(False, description="compile the energy where it is done in torch; minutes repay it")


class MolecularDynamics(Method):
    """Plain molecular dynamics (Langevin, or Metropolis without masses) with a histogram estimate."""

    name = "md"
    Config = MDConfig
    uncounted_in_publication = frozenset({"equilibrate"})

    def __init__(self, problem: Any, config: MDConfig, streams: Streams) -> None:
        super().__init__(problem, config, streams)
        if config.compile:
            problem.compile()
        generator = streams.torch("dynamics", problem.device)
        start = problem.initial_configuration()
        self.dynamics = make_walkers(
            problem,
            start.expand(config.walkers, *start.shape),
            generator,
            time_step=config.time_step,
            friction=config.friction,
            step_size=config.step_size,
        )
        bins = math.prod(problem.cvs.bins)
        self.counts = torch.zeros(2, config.walkers, bins, dtype=torch.int32)  # of alternating stretches
        self._rows = torch.arange(config.walkers)
        self.equilibrated = 0
        self.produced = 0

    def estimates(self) -> Iterator[PMF]:
        """Yield the histogram at logarithmically spaced numbers of steps."""
        config: MDConfig = self.config
        with self.problem.phase("equilibrate"):
            advance(self.problem, self.dynamics, config.equilibration_steps - self.equilibrated)
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

        A group is a simulation of its own that cost its share of the steps, so that one run gives the curve
        of shorter simulations too, each with walkers long enough to have forgotten their start.
        """
        found = [self._side("smoothed", self.config.walkers, 0)]
        size = 1
        while size <= self.config.walkers // 2:
            for replicate in range(min(REPLICATES, self.config.walkers // size)):
                found += [self._side(name, size, replicate) for name in ("histogram", "smoothed")]
            size *= 8
        return found

    def _side(self, name: str, size: int, replicate: int) -> AuxiliaryEstimate:
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
        """Let all walkers go so many steps, and count where they have been, those that got lost not."""
        visits = []
        for _ in range(steps):
            self.dynamics.step()
            self.produced += 1
            if self.produced % self.config.stride == 0:
                s = self.problem.collective_variables(self.dynamics.positions).double().cpu().numpy()
                visits.append((self.produced // self.config.stretch % 2, self.problem.cvs.bin_index(s)))
        sound = ~end_block(self.problem, self.dynamics).cpu()
        for half, index in visits:
            bins = torch.from_numpy(index)
            counted = (bins >= 0) & sound
            self.counts[half, self._rows[counted], bins[counted]] += 1

    def _next_goal(self) -> int:
        """Logarithmically spaced, but never so far ahead that a kill would cost much."""
        config: MDConfig = self.config
        factor = 10 ** (1 / config.estimates_per_decade)
        least = max(math.ceil(config.steps / 1000), config.stride)
        ahead = min(math.ceil(self.produced * factor), self.produced + math.ceil(config.steps / 20))
        return min(config.steps, max(least, ahead))

    def state_dict(self) -> dict[str, Any]:
        """Walkers, counts and steps."""
        return {
            "dynamics": self.dynamics.state_dict(),
            "counts": self.counts,
            "equilibrated": self.equilibrated,
            "produced": self.produced,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.dynamics.load_state_dict(state["dynamics"])
        self.counts = state["counts"]
        self.equilibrated, self.produced = int(state["equilibrated"]), int(state["produced"])
