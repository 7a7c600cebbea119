"""Plain molecular dynamics: the baseline that every method is measured against."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pydantic import Field

from cgbench.method import Method, MethodConfig
from cgbench.pmf import PMF
from cgbench.streams import Streams
from methods.dynamics.langevin import Langevin
from methods.dynamics.metropolis import Metropolis

__all__ = ["MDConfig", "MolecularDynamics"]


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
    compile: bool = Field(False, description="compile the energy: pays for runs of minutes")


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
        walkers = start.expand(config.walkers, *start.shape)
        self.dynamics: Langevin | Metropolis
        if problem.masses is None:
            energy = lambda x: problem.reduced_energy_and_gradient(x)[0]  # noqa: E731
            self.dynamics = Metropolis(energy, walkers.clone(), config.step_size, generator)
        else:
            self.dynamics = Langevin(
                problem.reduced_energy_and_gradient,
                problem.masses,
                problem.temperature,
                time_step=config.time_step,
                friction=config.friction,
                positions=walkers.float(),
                generator=generator,
            )
        self.counts = torch.zeros(problem.cvs.bins, dtype=torch.float64)
        self.equilibrated = 0
        self.produced = 0

    def estimates(self) -> Iterator[PMF]:
        """Yield the histogram at logarithmically spaced numbers of steps."""
        config: MDConfig = self.config
        with self.problem.phase("equilibrate"):
            while self.equilibrated < config.equilibration_steps:
                self.dynamics.step()
                self.equilibrated += 1
        while self.produced < config.steps:
            goal = self._next_goal()
            with self.problem.phase("production"):
                while self.produced < goal:
                    self.dynamics.step()
                    self.produced += 1
                    if self.produced % config.stride == 0:
                        self._count()
            self.progress = self.produced / config.steps
            self.status = f"{self.produced:,} of {config.steps:,} steps of {config.walkers} walkers"
            yield PMF.from_counts(self.problem.cvs, self.counts.numpy(), config.pseudocount)

    def _count(self) -> None:
        s = self.problem.collective_variables(self.dynamics.positions).double().cpu().numpy()
        self.counts += torch.from_numpy(self.problem.cvs.histogram(s))

    def _next_goal(self) -> int:
        config: MDConfig = self.config
        factor = 10 ** (1 / config.estimates_per_decade)
        least = max(math.ceil(config.steps / 1000), config.stride)
        return min(config.steps, max(least, math.ceil(self.produced * factor)))

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
