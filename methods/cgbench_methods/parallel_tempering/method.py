"""The method ``parallel_tempering``: stages, estimates and diagnostics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from cgbench.contracts.declarations import Given
from cgbench.contracts.maps import Estimate
from cgbench.contracts.method import Method
from cgbench.contracts.pmf import PMF
from cgbench.counting.streams import Streams
from cgbench_methods.lib.estimators.jackknife import facts_of_maps, warnings_of_errors
from cgbench_methods.parallel_tempering.config import ParallelTemperingConfig
from cgbench_methods.parallel_tempering.estimate import Tempered
from cgbench_methods.parallel_tempering.ladder import first_ladder, respaced
from cgbench_methods.parallel_tempering.walkers import TemperedWalkers

__all__ = ["ParallelTempering"]

RIGID_MOTION = 6  # degrees of freedom without an energy, of a molecule
FEW = 10.0  # effective samples below which the PMF is not reliable
SLOW = 0.1  # exchange rate below which a pair of temperatures is reported
MUCH = 0.01  # share of samples outside the state space that is reported
FIRST = 1 / 20  # share of production before its first estimate


class ParallelTempering(Method):
    """Replica exchange over temperatures, many ladders at once, combined by MBAR.

    In the burn-in the temperatures are spaced for equal exchange rates; the ladder of its last round is kept. Every
    round of the burn-in ends with an estimate from the second half of the round.
    """

    name = "parallel_tempering"
    Config = ParallelTemperingConfig
    given = (
        Given(
            collective_variables="histogram only",
            state_space="samples outside have no weight",
            masses="Langevin dynamics",
            gradient="every step",
            temperatures="the highest",
            start="all walkers",
        ),
    )

    def __init__(self, problem: Any, config: ParallelTemperingConfig, streams: Streams) -> None:
        super().__init__(problem, config, streams)
        if config.compile:
            problem.compile()
        coordinates = problem.initial_configuration().numel() - (0 if problem.masses is None else RIGID_MOTION)
        relative = first_ladder(coordinates, config.hottest, config.exchange_rate, config.most_temperatures)
        self.walkers = TemperedWalkers(problem, config, streams, relative)
        self.round = self.produced = self.planned = 0
        self.every = 1
        self.samples: list[torch.Tensor] = []
        self.facts: dict[str, Any] = {}

    def estimates(self) -> Iterator[PMF | Estimate]:
        """Yield after each round of the burn-in, then at growing numbers of production steps."""
        config: ParallelTemperingConfig = self.config
        while self.round < config.rounds:
            with self.problem.phase("burn_in"):
                self._adapt()
            self.round += 1
            self._report()
            yield self._checked_estimate()
        if not self.planned:
            left = (config.evaluations - self.problem.evaluations) // self._cost
            self.planned = max(2, left)
            self.every = self._spacing(self.planned)
            self.samples = []
            self.walkers.forget_counts()
        while self.produced < self.planned:
            strides = self._next_goal() - self.produced
            with self.problem.phase("production"):
                self.samples.append(self.walkers.sample(strides, self.every))
            self.produced += strides
            self._report()
            yield self._checked_estimate()

    @property
    def _cost(self) -> int:
        """Evaluations of a stride of all walkers."""
        return len(self.walkers) * int(self.config.stride)

    def _spacing(self, strides: int) -> int:
        """Return the strides between samples, so that the memory suffices."""
        config: ParallelTemperingConfig = self.config
        return math.ceil(strides / max(2, config.most_samples // len(self.walkers)))

    def _adapt(self) -> None:
        """Change the temperatures by the rates of the round before, and sample for a round."""
        config: ParallelTemperingConfig = self.config
        walkers = self.walkers
        if self.round:
            walkers.change_temperatures(
                respaced(walkers.relative, walkers.exchange.rates(), config.exchange_rate, config.most_temperatures)
            )
        share = 2**self.round / (2**config.rounds - 1)
        strides = max(4, int(share * config.burn_in * config.evaluations / self._cost))
        walkers.sample(strides // 2, every=strides)
        walkers.forget_counts()
        self.samples = [walkers.sample(strides - strides // 2, self._spacing(strides))]

    def _next_goal(self) -> int:
        """Return the strides of the next estimate: geometrically spaced."""
        fractions = np.geomspace(FIRST, 1.0, self.config.estimates)
        goals = [max(2, math.ceil(fraction * self.planned)) for fraction in fractions[:-1]]
        return next((goal for goal in goals if self.produced < goal < self.planned), self.planned)

    def _checked_estimate(self) -> PMF | Estimate:
        """Return the estimate; energies too large for float64 end in a ValueError rather than in numpy's warnings."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self._estimate()

    def _estimate(self) -> PMF | Estimate:
        """Return the PMFs of all maps from the samples of the present ladder."""
        config: ParallelTemperingConfig = self.config
        tempered = Tempered(torch.cat(self.samples), self.walkers.relative, config.groups, config.mbar_samples)
        # an effective sample size below two means that one weight is more than half of the sum
        self.problem.report_anomaly("dominant_weight", int(tempered.effective_sample_size < 2.0), 1)
        maps, states = self.problem.maps, self.problem.states
        combined = [tempered.combine(one.axes, one.cvs, config.fit_orders) for one in maps]
        self.facts = facts_of_maps(maps, combined) | {
            "samples": tempered.usable,
            "effective_sample_size_of_weights": tempered.effective_sample_size,
        }
        if len(maps) == 1 and states is None:
            return combined[0].pmf
        populations = None if states is None else tempered.populations(states)
        return Estimate(tuple(one.pmf for one in combined), populations)

    def _report(self) -> None:
        config: ParallelTemperingConfig = self.config
        count, last = len(self.walkers.relative), f"{self.walkers.relative[-1] * self.problem.temperature:,.4g}"
        ladders = f"{config.ladders} ladders of {count} temperatures up to {last}"
        if self.planned:
            done = f"{self.produced * config.stride:,} of {self.planned * config.stride:,} steps"
        else:
            done = f"round {self.round} of {config.rounds} of the burn-in"
        self.status = f"{done}, {ladders}"
        self.progress = min(1.0, self.problem.evaluations / config.evaluations)

    def diagnostics(self) -> dict[str, Any]:
        """Return temperatures, exchange rates, round trips, effective samples, and whether all is well.

        Rates, trips and samples are those of production, or of the last round of the burn-in before production.
        ``expected_kld`` is half the mean jackknife variance of the free energy.
        """
        if not self.facts:
            return {}
        config: ParallelTemperingConfig = self.config
        walkers = self.walkers
        rates, size = walkers.exchange.rates(), self.facts["effective_sample_size_of_weights"]
        trips = walkers.exchange.round_trips
        outside = walkers.outside / walkers.sampled.clamp(min=1)
        warnings = []
        if size < FEW:
            warnings.append(f"effective sample size {size:.1f}: a few large weights dominate the PMF")
        if rates.min() < SLOW:
            warnings.append(f"neighbouring temperatures exchange only {rates.min():.1%} of the time")
        if trips < config.ladders:
            warnings.append(f"{trips:g} round trips in {config.ladders} ladders: temperatures hardly mix")
        if outside[0] > MUCH:
            warnings.append(f"{float(outside[0]):.1%} of the samples at the lowest temperature left the state space")
        warnings += warnings_of_errors(self.facts.get("expected_kld"))
        return self.facts | {
            "temperatures": (walkers.relative * self.problem.temperature).tolist(),
            "exchange_rates": rates.tolist(),
            "round_trips": trips,
            "round_trips_per_walker": trips / len(walkers),
            "outside_state_space": outside.tolist(),
            "reliable": not warnings,
            "warnings": warnings,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return walkers, progress and samples."""
        return {
            "walkers": self.walkers.state_dict(),
            "numbers": [self.round, self.produced, self.planned, self.every],
            "samples": self.samples,
            "facts": self.facts,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.walkers.load_state_dict(state["walkers"])
        self.round, self.produced, self.planned, self.every = (int(number) for number in state["numbers"])
        self.samples = list(state["samples"])
        self.facts = dict(state["facts"])
