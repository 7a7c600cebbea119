"""The walkers of all ladders in one batch: they move, exchange temperatures, and are sampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench_methods.lib.sampling.exchange import rearranged
from cgbench_methods.lib.sampling.langevin import Langevin
from cgbench_methods.lib.sampling.metropolis import Metropolis
from cgbench_methods.lib.sampling.walkers import restore_diverged, walkers_at
from cgbench_methods.parallel_tempering.config import ParallelTemperingConfig
from cgbench_methods.parallel_tempering.exchange import TemperatureExchange

__all__ = ["TemperedWalkers"]

Array = NDArray[np.float64]


class TemperedWalkers:
    """Walkers of independent ladders: Langevin for molecules, Metropolis without masses, each at its temperature.

    Energies at the positions of a sample are those of the step that begins there: samples and exchanges cost no
    evaluation.

    Parameters
    ----------
    problem, config, streams
        As for `cgbench.contracts.method.Method`.
    relative
        Increasing temperatures relative to that of the problem, ``[temperatures]``.

    Attributes
    ----------
    dynamics
        The walkers, those of one ladder after the other.
    exchange
        Their temperatures.
    sampled, outside
        Number of samples at each temperature, and of those outside the state space, ``[temperatures]``.
    """

    def __init__(self, problem: Problem, config: ParallelTemperingConfig, streams: Streams, relative: Array) -> None:
        self.problem, self.config = problem, config
        self._moves, self._acceptances = streams.torch("dynamics", problem.device), streams.torch("exchange")
        self._has_state_space = "coordinates" in problem.traits
        start = problem.initial_configuration()
        self._begin(start.expand(config.ladders * len(relative), *start.shape), relative)

    def __len__(self) -> int:
        return len(self.dynamics.positions)

    @property
    def relative(self) -> Array:
        """Temperatures relative to that of the problem, ``[temperatures]``."""
        return self.exchange.relative

    def _begin(self, positions: torch.Tensor, relative: Array) -> None:
        """Make walkers with new velocities; walker i of each ladder is at temperature i."""
        config = self.config
        self.exchange = TemperatureExchange(relative, config.ladders, self._acceptances)
        self.dynamics: Langevin | Metropolis = walkers_at(self.problem, config, positions, self._moves)
        self.dynamics.set_temperatures(self.exchange.temperatures())
        self._diverged = torch.zeros(len(self), dtype=torch.bool, device=self.problem.device)
        self.forget_counts()

    def forget_counts(self) -> None:
        """Start counting exchanges, round trips and samples anew."""
        self.exchange.forget_counts()
        self.strides = 0
        self.sampled = torch.zeros(len(self.relative), dtype=torch.long)
        self.outside = torch.zeros(len(self.relative), dtype=torch.long)

    def change_temperatures(self, relative: Array) -> None:
        """Change the ladder; each new temperature continues from the walker whose temperature is nearest."""
        nearest = np.abs(np.log(relative)[:, None] - np.log(self.relative)).argmin(1)
        ladder = len(self.relative) * torch.arange(self.config.ladders)[:, None]
        order = (self.exchange.holder + ladder)[:, torch.from_numpy(nearest)].flatten()
        state = rearranged(self.dynamics.state_dict(), order)
        self._begin(state["positions"], relative)
        fresh = self.dynamics.state_dict()  # new velocities, so that copies of one walker take different ways
        state |= {name: fresh[name] for name in state if name.endswith("velocities")}
        self.dynamics.load_state_dict(state)

    def sample(self, strides: int, every: int = 1) -> torch.Tensor:
        """Advance all walkers, and exchange temperatures at the start of every stride.

        Parameters
        ----------
        strides
            Number of strides.
        every
            Strides between samples.

        Returns
        -------
        samples
            Reduced energies, then collective variables, ``[samples, ladders, temperatures, 1 + cvs]``, in float32. NaN
            where a walker has diverged, is outside the state space, or has no finite energy.
        """
        samples = []
        for _ in range(strides):
            gradient = None
            if isinstance(self.dynamics, Langevin):
                gradient = self.dynamics.begin_step()
            else:
                self.dynamics.step(0)  # evaluates the starting points once
            energies = self.dynamics.energies
            assert energies is not None
            if self.strides % every == 0:
                samples.append(self._sample(energies))
            self.exchange.attempt(energies)
            self.dynamics.set_temperatures(self.exchange.temperatures())
            if isinstance(self.dynamics, Langevin) and gradient is not None:
                self.dynamics.finish_step(gradient)
                self.dynamics.step(self.config.stride - 1)
            else:
                self.dynamics.step(self.config.stride)
            self._diverged = restore_diverged(self.problem, self.dynamics)
            self.strides += 1
        shape = (0, self.config.ladders, len(self.relative), 1 + len(self.problem.cvs))
        return torch.stack(samples) if samples else torch.zeros(shape)

    def _sample(self, energies: torch.Tensor) -> torch.Tensor:
        x = self.dynamics.positions
        s = self.problem.collective_variables(x)
        usable = energies.isfinite() & ~self._diverged
        if self._has_state_space:
            inside = self.problem.in_state_space(x).to(usable.device)
            # hot walkers may leave and return; what counts for the result is the lowest temperature
            coldest = self.exchange.by_temperature(torch.arange(len(x), device=x.device))[:, 0]
            self.problem.report_state_space(x[coldest])
            self.outside += self.exchange.by_temperature(usable & ~inside).sum(0).cpu()
            self.sampled += self.exchange.by_temperature(usable).sum(0).cpu()
            usable = usable & inside
        rows = torch.cat([energies[:, None].float(), s.float()], dim=1).masked_fill(~usable[:, None], torch.nan)
        return self.exchange.by_temperature(rows).cpu()

    def state_dict(self) -> dict[str, Any]:
        """Return walkers, temperatures and counts."""
        return {
            "dynamics": self.dynamics.state_dict(),
            "exchange": self.exchange.state_dict(),
            "diverged": self._diverged,
            "strides": self.strides,
            "sampled": self.sampled,
            "outside": self.outside,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        exchange = state["exchange"]
        self._begin(state["dynamics"]["positions"].to(self.problem.device), exchange["relative"].numpy())
        self.exchange.load_state_dict(exchange)
        self.dynamics.set_temperatures(self.exchange.temperatures())
        self.dynamics.load_state_dict(state["dynamics"])
        self._diverged = state["diverged"].to(self.problem.device)
        self.strides = int(state["strides"])
        self.sampled, self.outside = state["sampled"].clone(), state["outside"].clone()
