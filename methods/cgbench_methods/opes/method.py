"""The method ``opes``: stages, estimates and diagnostics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.declarations import Given
from cgbench.contracts.maps import FEW_CVS, Estimate
from cgbench.contracts.method import Method
from cgbench.contracts.pmf import PMF
from cgbench.counting.streams import Streams
from cgbench_methods.lib.estimators.jackknife import warnings_of_errors
from cgbench_methods.lib.sampling.visits import Visits
from cgbench_methods.opes.config import OPESConfig
from cgbench_methods.opes.estimate import Reweighted
from cgbench_methods.opes.sampler import SharedWalkers

__all__ = ["OPES"]

FEW = 10.0  # effective samples below which the PMF is not reliable
FIRST = 1 / 40  # share of the run before its first estimate


class OPES(Method):
    """On-the-fly probability enhanced sampling of many walkers, with samples reweighted by the bias at their time.

    Every estimate leaves out the first part of the run so far, in which the bias still changes much.
    """

    name = "opes"
    requires = frozenset({FEW_CVS})
    Config = OPESConfig
    given = (
        Given(
            collective_variables="biased over their domain",
            state_space="samples outside have no weight",
            masses="Langevin dynamics",
            gradient="every step",
            free_energies="barrier, bias factor",
            start="all walkers",
        ),
    )

    def __init__(self, problem: Any, config: OPESConfig, streams: Streams) -> None:
        super().__init__(problem, config, streams)
        self.walkers = SharedWalkers(problem, config, streams.torch("dynamics", problem.device))
        if config.compile:
            problem.compile()
        self.visits = Visits(problem.cvs, config.walkers)
        at_start = 0 if problem.masses is not None else config.walkers  # Metropolis evaluates the starting points
        steps = (config.evaluations - at_start) // config.walkers
        self.planned = max(1, steps // config.stride)  # in strides, as all numbers below
        self.measured = 0 if config.sigma is not None else config.sigma_paces * (config.pace // config.stride)
        self.frozen = None if config.freeze is None else math.ceil(config.freeze * self.planned)
        self.every = math.ceil(self.planned / max(2, config.most_samples // config.walkers))
        self.done = 0
        self.samples = torch.zeros(0, config.walkers, 1 + len(problem.cvs), dtype=torch.float32)
        self.facts: dict[str, Any] = {}

    @classmethod
    def required_traits(cls, config: OPESConfig) -> frozenset[str]:
        """Return the trait "few_cvs", unless the configuration chooses the CVs."""
        return cls.requires if config.cvs is None else frozenset()

    def estimates(self) -> Iterator[PMF | Estimate]:
        """Yield at geometrically spaced numbers of steps."""
        while self.done < self.planned:
            goal = self._next_goal()
            new = []
            while self.done < goal:
                with self.problem.phase(self._phase()):
                    sample = self._stride()
                if self.done % self.every == 0:
                    new.append(sample)
            if new:
                self.samples = torch.cat([self.samples, torch.from_numpy(np.stack(new))])
            self._report()
            yield self._estimate()

    def _phase(self) -> str:
        if self.done < self.measured:
            return "measure_widths"
        return "build_bias" if self.frozen is not None and self.done < self.frozen else "production"

    def _stride(self) -> NDArray[np.float32]:
        """Advance by a stride, deposit if it is time, and return bias and CVs ``[walkers, 1 + cvs]``."""
        config: OPESConfig = self.config
        if self.walkers.kernels is None and self.done == self.measured:
            self.walkers.start()
        self.walkers.advance(config.stride)
        self.done += 1
        s, bias = self.walkers.sample()
        self.visits.note(s)
        if self.done <= self.measured:
            self.walkers.note_spread(s)
            if self.done == self.measured:
                self.walkers.start()
        fixed = self.walkers.kernels is None or (self.frozen is not None and self.done > self.frozen)
        if not fixed and self.done % (config.pace // config.stride) == 0:
            self.walkers.deposit(s, bias)
        return np.concatenate([bias[:, None], s], axis=1).astype(np.float32)

    def _next_goal(self) -> int:
        """Return the strides of the next estimate; each has at least one sample."""
        fractions = np.geomspace(FIRST, 1.0, self.config.estimates) if self.config.estimates > 1 else np.ones(1)
        goals = [max(self.every, math.ceil(fraction * self.planned)) for fraction in fractions[:-1]]
        return next((goal for goal in goals if self.done < goal < self.planned), self.planned)

    def _used(self) -> torch.Tensor:
        """Return the samples of the later part of the run, or since the bias is frozen."""
        first = int(self.config.discard * len(self.samples))
        if self.frozen is not None:
            frozen = self.frozen // self.every
            first = max(first, frozen) if frozen < len(self.samples) else first
        return self.samples[first:]

    def _estimate(self) -> PMF | Estimate:
        config: OPESConfig = self.config
        reweighted = Reweighted(self._used(), config.groups)
        # an effective sample size below two means that one weight is more than half of the sum
        self.problem.report_anomaly("dominant_weight", int(reweighted.effective_sample_size < 2.0), 1)
        maps, states = self.problem.maps, self.problem.states
        found = [reweighted.pmf(one, config.fit_orders) for one in maps]
        pmfs, facts = [pmf for pmf, _ in found], [numbers for _, numbers in found]
        self.facts = {
            "samples": reweighted.number,
            "effective_sample_size_of_weights": reweighted.effective_sample_size,
        }
        if len(maps) == 1:
            self.facts |= facts[0]
        else:
            self.facts["maps"] = {one.name: fact for one, fact in zip(maps, facts, strict=True)}
            expected = [fact["expected_kld"] for fact in facts if "expected_kld" in fact]
            self.facts |= {"expected_kld": float(np.mean(expected))} if expected else {}
        if len(maps) == 1 and states is None:
            return pmfs[0]
        return Estimate(tuple(pmfs), None if states is None else reweighted.populations(states))

    def _report(self) -> None:
        config: OPESConfig = self.config
        kernels = 0 if self.walkers.kernels is None else len(self.walkers.kernels)
        done, planned = (number * config.stride for number in (self.done, self.planned))
        self.status = f"{done:,} of {planned:,} steps of {config.walkers} walkers, {kernels:,} kernels"
        self.progress = self.done / self.planned

    def diagnostics(self) -> dict[str, Any]:
        """Return kernels, range of the bias, and quality of the samples.

        ``expected_kld`` is half the mean jackknife variance of the free energy.
        """
        if not self.facts:
            return {}
        size, kernels = self.facts["effective_sample_size_of_weights"], self.walkers.kernels
        warnings = []
        if size < FEW:
            warnings.append(f"effective sample size {size:.1f}: a few large weights dominate the PMF")
        found: dict[str, Any] = {"biased_cvs": list(self.walkers.cvs.names)}
        if kernels is None or not len(kernels):
            warnings.append("no kernel was deposited: the run is shorter than the measurement of the widths")
        else:
            found |= {
                "kernels": len(kernels),
                "deposits": kernels.counter - 1,
                "effective_deposits": kernels.effective_size,
                "first_widths": kernels.first_widths.tolist(),
                "last_widths": kernels.new_widths().tolist(),
                "normalisation": kernels.z,
                "bias_range_kT": float(np.ptp(kernels.bias(kernels.centres))),
            }
        warnings += self.visits.warnings(self.walkers.cvs.names)
        warnings += self.walkers.turns.warnings() + warnings_of_errors(self.facts.get("expected_kld"))
        found |= self.facts | {"round_trips_per_walker": self.visits.round_trips()} | self.walkers.turns.diagnostics()
        return found | {"reliable": not warnings, "warnings": warnings}

    def extra_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the bias in kT at the bin centres, if it is one of at most two CVs."""
        return {"bias": self.walkers.bias_on_grid()} if len(self.walkers.cvs) <= 2 else {}

    def state_dict(self) -> dict[str, Any]:
        """Return walkers, kernels, progress and samples."""
        return {
            "walkers": self.walkers.state_dict(),
            "visits": self.visits.state_dict(),
            "done": self.done,
            "samples": self.samples,
            "facts": self.facts,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.walkers.load_state_dict(state["walkers"])
        self.visits.load_state_dict(state["visits"])
        self.done, self.samples, self.facts = int(state["done"]), state["samples"], dict(state["facts"])
