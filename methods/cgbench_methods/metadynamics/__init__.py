"""Well-tempered metadynamics of many walkers, then production under the frozen bias."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgbench.contracts.method import Method
from cgbench.contracts.pmf import PMF
from cgbench.counting.streams import Streams
from cgbench.scoring.divergences import forward_kld
from cgbench_methods.metadynamics.config import MetadynamicsConfig
from cgbench_methods.metadynamics.production import LARGEST, Production
from cgbench_methods.metadynamics.sampler import BatchedSampler, Sampler

__all__ = ["Metadynamics", "MetadynamicsConfig"]

GROWTH = 1.5  # of the time between estimates in production
FEW = 10.0  # effective samples; fewer make no PMF
STRETCHES = 8  # of time that each group consists of, where walkers are fewer than groups


class Metadynamics(Method):
    """Well-tempered metadynamics, reweighted from production under its frozen bias.

    While the bias is built, the estimate is the bias itself: the PMF is ``-gamma / (gamma - 1)`` times it. Then it
    is frozen, walkers equilibrate, and every configuration counts with the weight ``exp(bias)``, which is exact
    whatever the bias is; a smooth PMF is fitted to their histogram by maximum likelihood.
    """

    name = "metadynamics"
    Config = MetadynamicsConfig

    def __init__(self, problem: Any, config: MetadynamicsConfig, streams: Streams) -> None:
        super().__init__(problem, config, streams)
        generator = streams.torch("dynamics", problem.device)
        self.sampler: Sampler
        if problem.engine == "openmm" and "openmm" in problem.traits:
            from cgbench_methods.metadynamics.openmm_sampler import OpenMMSampler

            self.sampler = OpenMMSampler(problem, config, generator)
        else:
            if config.compile:
                problem.compile()
            self.sampler = BatchedSampler(problem, config, generator)
        self.deposited = 0
        self.produced = 0
        self.last_change: float | None = None
        self.expected_kld: float | None = None
        self.production: Production | None = None

    def estimates(self) -> Iterator[PMF]:
        """Yield at doubling numbers of hills, then at growing stretches of production."""
        config: MetadynamicsConfig = self.config
        while self.deposited < config.deposits:
            yield self._build()
        while self.produced < config.steps:
            self.sampler.begin()
            production = self._equilibrated()
            goal, stretch = self._next_goal(), math.ceil(config.steps / (STRETCHES * config.groups))
            with self.problem.phase("production"):
                while self.produced < goal:
                    steps = min(config.stride, goal - self.produced)
                    self.sampler.advance(steps)
                    self.produced += steps
                    production.note(*self.sampler.sample(), stretch=(self.produced - 1) // stretch)
            self._report()
            if production.moments[0] == 0:
                raise ValueError("nothing was counted: every walker was lost (diverged_walker) or outside the domain")
            # one weight holds more than half of the sum if the effective sample size is below two
            self.problem.report_anomaly("dominant_weight", int(production.effective_sample_size < 2.0), 1)
            pmf = production.estimate(config.fit_orders)
            if pmf.free_energy_std is not None:
                self.expected_kld = 0.5 * float((pmf.probability * pmf.free_energy_std**2).sum())
            yield pmf

    def _build(self) -> PMF:
        """Add as many hills as there are, and read the PMF off the bias."""
        config: MetadynamicsConfig = self.config
        goal = min(config.deposits, max(2 * self.deposited, 1))
        self.sampler.begin()
        before = self._from_bias()
        with self.problem.phase("build_bias"):
            while self.deposited < goal:
                self.sampler.deposit()
                self.deposited += 1
        self._report()
        pmf = self._from_bias()
        self.last_change = forward_kld(pmf.probability, before.probability)
        return pmf

    def _from_bias(self) -> PMF:
        bias = self.sampler.bias_on_grid()
        factor = self.config.bias_factor / (self.config.bias_factor - 1.0)
        return PMF(self.problem.cvs, np.exp(np.maximum(factor * (bias - bias.max()), -LARGEST)))

    def _equilibrated(self) -> Production:
        """Samples so far; before the first of them, let the walkers forget the hills."""
        config: MetadynamicsConfig = self.config
        if self.production is None:
            with self.problem.phase("equilibrate"):
                self.sampler.advance(config.equilibration_steps)
            self.production = self._new_production()
        return self.production

    def _new_production(self) -> Production:
        config: MetadynamicsConfig = self.config
        return Production(self.problem.cvs, self.sampler.bias_on_grid(), config.walkers, config.groups)

    def _next_goal(self) -> int:
        config: MetadynamicsConfig = self.config
        first = config.steps / GROWTH ** (config.production_estimates - 1)
        return min(config.steps, max(config.stride, math.ceil(first), math.ceil(self.produced * GROWTH)))

    def _report(self) -> None:
        config: MetadynamicsConfig = self.config
        before = config.pace * config.deposits + config.equilibration_steps
        if self.produced == 0:
            spent = config.pace * self.deposited
            self.status = f"{self.deposited:,} of {config.deposits:,} hills of {config.walkers} walkers"
        else:
            spent = before + self.produced
            self.status = f"{self.produced:,} of {config.steps:,} production steps of {config.walkers} walkers"
        self.progress = spent / (before + config.steps)

    def diagnostics(self) -> dict[str, Any]:
        """Hills, bias, and how well the frozen bias was sampled.

        ``change_of_last_hills`` is the forward KLD from the PMF read off the final bias to that of half as many hills;
        ``expected_kld`` is half the mean variance of the free energy by the jackknife.
        """
        bias = self.sampler.bias_on_grid()
        found: dict[str, Any] = {
            "hills": self.deposited * self.config.walkers,
            "bias_range_kT": float(np.ptp(bias)),
            "change_of_last_hills": self.last_change,
        }
        warnings = []
        if self.production is not None:
            weights = self.production.moments
            if self.production.effective_sample_size < FEW:
                size = self.production.effective_sample_size
                warnings.append(f"effective sample size {size:.1f}: the PMF rests on a few heavy weights")
            found |= {
                "samples": int(weights[0]),
                "effective_sample_size_of_weights": self.production.effective_sample_size,
                "visited_part_of_the_grid": self.production.coverage,
                "round_trips_per_walker": self.production.visits.round_trips(),
                "fourier_order": self.production.order,
                "expected_kld": self.expected_kld,
            }
        return found | {"warnings": warnings}

    def extra_arrays(self) -> dict[str, NDArray[Any]]:
        """The bias in kT at the bin centres."""
        return {"bias": self.sampler.bias_on_grid()}

    def state_dict(self) -> dict[str, Any]:
        """Walkers, bias, how far they are, and the samples."""
        return {
            "sampler": self.sampler.state_dict(),
            "deposited": self.deposited,
            "produced": self.produced,
            "last_change": self.last_change,
            "expected_kld": self.expected_kld,
            "production": None if self.production is None else self.production.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.sampler.load_state_dict(state["sampler"])
        self.deposited, self.produced = int(state["deposited"]), int(state["produced"])
        self.last_change, self.expected_kld = state["last_change"], state["expected_kld"]
        if state["production"] is not None:
            self.production = self._new_production()
            self.production.load_state_dict(state["production"])
