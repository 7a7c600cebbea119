"""The method ``metadynamics``: stages, estimates and diagnostics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgbench.contracts.declarations import Given
from cgbench.contracts.maps import FEW_CVS, PMF_GRID, Estimate
from cgbench.contracts.method import Method
from cgbench.contracts.pmf import LARGEST_FREE_ENERGY, PMF
from cgbench.counting.streams import Streams
from cgbench.scoring.divergences import forward_kld
from cgbench_methods.lib.estimators.jackknife import warnings_of_errors
from cgbench_methods.metadynamics.config import MetadynamicsConfig
from cgbench_methods.metadynamics.maps import MapsProduction
from cgbench_methods.metadynamics.production import Production
from cgbench_methods.metadynamics.sampler import BatchedSampler, Sampler

__all__ = ["Metadynamics"]

GROWTH = 1.5  # factor between the production steps of successive estimates
FEW = 10.0  # effective samples below which the PMF is not reliable
STRETCHES = 8  # stretches of time per group, if there are fewer walkers than groups


class Metadynamics(Method):
    """Well-tempered metadynamics, reweighted from production under the frozen bias.

    While the bias is built, the PMF is ``-gamma / (gamma - 1)`` times the bias. Then the bias is frozen, the walkers
    equilibrate, and a smooth PMF is fitted to the histogram of samples with weights ``exp(bias)``.

    If the bias acts on a choice of the CVs, PMFs of all maps follow from the weights, and there is no estimate before
    production.
    """

    name = "metadynamics"
    requires = frozenset({FEW_CVS})
    Config = MetadynamicsConfig
    given = (
        Given(
            collective_variables="biased over their domain",
            state_space="samples outside have no weight",
            masses="Langevin dynamics",
            gradient="every step",
            free_energies="height of the hills, bias factor",
            start="all walkers",
        ),
    )

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
        # whether the PMF of the only map can be read off the bias
        self.on_grid = PMF_GRID in problem.traits and self.sampler.cvs == problem.cvs
        self.deposited = 0
        self.produced = 0
        self.last_change: float | None = None
        self.expected_kld: float | None = None
        self.production: Production | MapsProduction | None = None

    @classmethod
    def required_traits(cls, config: MetadynamicsConfig) -> frozenset[str]:
        """Return the trait "few_cvs", unless the configuration chooses the CVs."""
        return cls.requires if config.cvs is None else frozenset()

    def estimates(self) -> Iterator[PMF | Estimate]:
        """Yield at doubling numbers of hills, then at growing numbers of production steps."""
        config: MetadynamicsConfig = self.config
        while self.deposited < config.deposits:
            before = self._from_bias() if self.on_grid else None
            self._build()
            if before is not None:
                pmf = self._from_bias()
                self.last_change = forward_kld(pmf.probability, before.probability)
                yield pmf
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
                raise ValueError(
                    "no sample is usable: every walker diverged (diverged_walker), left the state space "
                    "(outside_state_space) or is outside the domain"
                )
            # an effective sample size below two means that one weight is more than half of the sum
            self.problem.report_anomaly("dominant_weight", int(production.effective_sample_size < 2.0), 1)
            found = production.estimate(config.fit_orders)
            pmfs = [found] if isinstance(found, PMF) else found.pmfs
            variances = [(p.probability, p.free_energy_std**2) for p in pmfs if p.free_energy_std is not None]
            if variances:
                self.expected_kld = 0.5 * float(np.mean([(p * variance).sum() for p, variance in variances]))
            yield found

    def _build(self) -> None:
        """Double the number of hills."""
        config: MetadynamicsConfig = self.config
        goal = min(config.deposits, max(2 * self.deposited, 1))
        self.sampler.begin()
        with self.problem.phase("build_bias"):
            while self.deposited < goal:
                self.sampler.deposit()
                self.deposited += 1
        self._report()

    def _from_bias(self) -> PMF:
        """Return the PMF that the bias implies."""
        bias = self.sampler.bias_on_grid()
        factor = self.config.bias_factor / (self.config.bias_factor - 1.0)
        return PMF(self.sampler.cvs, np.exp(np.maximum(factor * (bias - bias.max()), -LARGEST_FREE_ENERGY)))

    def _equilibrated(self) -> Production | MapsProduction:
        """Return the production so far; equilibrate under the frozen bias before the first sample."""
        config: MetadynamicsConfig = self.config
        if self.production is None:
            with self.problem.phase("equilibrate"):
                self.sampler.advance(config.equilibration_steps)
            self.production = self._new_production()
        return self.production

    def _new_production(self) -> Production | MapsProduction:
        config: MetadynamicsConfig = self.config
        problem = self.problem
        if self.on_grid:
            return Production(problem.cvs, self.sampler.bias_on_grid(), config.walkers, config.groups)
        return MapsProduction(problem.cvs, problem.maps, problem.states, config.walkers, config.groups)

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
        """Return hills, range of the bias, and quality of the production.

        ``change_of_last_hills`` is the forward KLD from the PMF that the final bias implies to the PMF of half as many
        hills; ``expected_kld`` is half the mean jackknife variance of the free energy.
        """
        found: dict[str, Any] = {"hills": self.deposited * self.config.walkers}
        if len(self.sampler.cvs) <= 2:
            found["bias_range_kT"] = float(np.ptp(self.sampler.bias_on_grid()))
        found["change_of_last_hills"] = self.last_change
        warnings = []
        if self.production is not None:
            weights = self.production.moments
            if self.production.effective_sample_size < FEW:
                size = self.production.effective_sample_size
                warnings.append(f"effective sample size {size:.1f}: a few large weights dominate the PMF")
            found |= {
                "samples": int(weights[0]),
                "effective_sample_size_of_weights": self.production.effective_sample_size,
                "round_trips_per_walker": self.production.visits.round_trips(),
                "expected_kld": self.expected_kld,
            }
            if isinstance(self.production, Production):
                found["visited_part_of_the_grid"] = self.production.coverage
                found["fourier_order"] = self.production.order
            else:
                found |= {"biased_cvs": list(self.sampler.cvs.names)} | self.production.facts
            warnings += self.production.visits.warnings(self.sampler.cvs.names)
            warnings += warnings_of_errors(self.expected_kld)
        else:
            warnings.append("no production yet: the bias is being built")
        warnings += self.sampler.turns.warnings()
        return found | self.sampler.turns.diagnostics() | {"reliable": not warnings, "warnings": warnings}

    def extra_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the bias in kT at the bin centres, if it is one of at most two CVs."""
        return {"bias": self.sampler.bias_on_grid()} if len(self.sampler.cvs) <= 2 else {}

    def state_dict(self) -> dict[str, Any]:
        """Return walkers, bias, progress and samples."""
        return {
            "sampler": self.sampler.state_dict(),
            "deposited": self.deposited,
            "produced": self.produced,
            "last_change": self.last_change,
            "expected_kld": self.expected_kld,
            "production": None if self.production is None else self.production.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.sampler.load_state_dict(state["sampler"])
        self.deposited, self.produced = int(state["deposited"]), int(state["produced"])
        self.last_change, self.expected_kld = state["last_change"], state["expected_kld"]
        if state["production"] is not None:
            self.production = self._new_production()
            self.production.load_state_dict(state["production"])
