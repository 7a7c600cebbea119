"""The method ``flow_ais_bootstrap``: stages, training and diagnostics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from cgbench.contracts.declarations import Given
from cgbench.contracts.maps import PMF_GRID
from cgbench.contracts.method import AuxiliaryEstimate, Method
from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench_methods.flow_ais_bootstrap.ais import AnnealedImportanceSampling, Points
from cgbench_methods.flow_ais_bootstrap.buffer import ReplayBuffer
from cgbench_methods.flow_ais_bootstrap.config import FABConfig
from cgbench_methods.lib.estimators.importance import LARGEST_SHARE, effective_sample_size, largest_share
from cgbench_methods.lib.estimators.jackknife import warnings_of_errors
from cgbench_methods.lib.estimators.weighted_histogram import WeightedHistogram
from cgbench_methods.lib.flows.joint import JointTarget
from cgbench_methods.lib.flows.steps import sound_step

__all__ = ["FlowAISBootstrap"]

GROUPS = 8  # of samples, for the standard errors of a fit
FIT_FROM = 300.0  # effective samples from which a fit is tried


class FlowAISBootstrap(Method):
    """Flow AIS Bootstrap with a prioritised replay buffer; PMF from reweighted samples of the flow.

    Chains of annealed importance sampling start from samples of the flow q. The flow is trained on the ends of the
    chains, which the buffer replays several times. The starts of the chains have known energies: they give the PMF
    during training. Samples of the trained flow then refine it.
    """

    name = "flow_ais_bootstrap"
    requires = frozenset({"gradient", "coordinates", PMF_GRID})
    Config = FABConfig
    uncounted_in_publication = frozenset({"evaluate"})
    given = (
        Given(
            collective_variables="coordinates of the flow",
            coordinates="all are coordinates of the flow",
            state_space="nothing outside is evaluated",
            gradient="chains of Hamiltonian Monte Carlo",
            start="centre of the coordinates",
        ),
    )

    def __init__(self, problem: Problem, config: FABConfig, streams: Streams) -> None:
        super().__init__(problem, config, streams)
        if config.compile:
            problem.compile()
        dtype = getattr(torch, config.flow.dtype)
        device = problem.device
        self.target = JointTarget(problem, config.flow, config.ais, dtype)
        self.flow = self.target.new_flow(streams.torch("flow weights"))
        training = config.training
        self.optimiser = torch.optim.Adam(
            self.flow.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
        )
        self.ais = AnnealedImportanceSampling(
            self.flow.log_prob_and_gradient,
            self.target.log_prob_and_gradient,
            distributions=config.ais.distributions,
            leapfrog_steps=config.ais.leapfrog_steps,
            step_size=config.ais.step_size,
            alpha=config.ais.alpha,
            target_acceptance=config.ais.target_acceptance,
            adaptation=config.ais.adaptation,
            generator=streams.torch("chains", device),
        )
        capacity = config.buffer.largest * training.batch
        self.buffer = ReplayBuffer(capacity, len(self.target.periodic), config.ais.alpha, dtype, device)
        self.histogram = self._empty_histogram()
        self.facts: dict[str, Any] = {}  # about the Fourier fit
        self.updates, self.sampled = 0, 0
        self.loss, self.share, self.ais_share = math.nan, 0.0, 0.0
        self.dropped, self.drawn = 0, 0
        self.history: list[dict[str, Any]] = []

    def _empty_histogram(self) -> WeightedHistogram:
        estimate = self.config.estimate
        return WeightedHistogram(self.problem.cvs, estimate, 2 if estimate.fit_orders is None else GROUPS)

    # ---- the loop ---------------------------------------------------------------------------------

    def estimates(self) -> Iterator[PMF]:
        """Yield at logarithmically spaced numbers of evaluations during training and final sampling."""
        config: FABConfig = self.config
        smallest = min(config.buffer.smallest, config.buffer.largest) * config.training.batch
        while len(self.buffer) < smallest and self.updates == 0:
            self._pass()
            if self._due():
                yield self._estimate("fill")
        while self.updates < config.training.updates:
            self._pass()
            self._learn()
            if self._due() or self.updates >= config.training.updates:
                yield self._estimate("train")
        if not config.estimate.use_training and self.sampled == 0:
            self.histogram = self._empty_histogram()
        while self.sampled < config.estimate.samples:
            self._evaluate()
            if self._due() or self.sampled >= config.estimate.samples:
                yield self._estimate("evaluate")

    def _due(self) -> bool:
        if self.histogram.sets == 0:
            return False
        if not self.history:
            return True
        return bool(
            self.problem.evaluations >= self.history[-1]["evaluations"] * 10 ** (1 / self.config.estimate.per_decade)
        )

    def _samples(self, count: int, log_prob: Callable[[torch.Tensor], Any]) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Draw samples of the flow; return them with ``ln q`` and the result of `log_prob`."""
        z, log_q = self.flow.sample_with_log_prob(count, self.streams.torch("flow samples", self.problem.device))
        z = self.target.wrap(z)
        return z, log_q, log_prob(z)

    def _add_to_estimate(self, z: torch.Tensor, log_q: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
        """Add samples of the flow to the estimate; return where p is positive, boolean ``[batch]``."""
        broken = ~(z.isfinite().all(dim=1) & log_q.isfinite())
        usable = log_p.isfinite() & ~broken
        self.problem.report_anomaly("unusable_sample", broken.sum(), len(z))
        self.problem.report_anomaly("empty_batch", (~usable).all().long(), 1)
        self.drawn, self.dropped = self.drawn + len(z), self.dropped + int((~usable).sum())
        self.histogram.add(self.target.split(z)[0], (log_p - log_q).masked_fill(broken, -torch.inf), len(z))
        return usable

    def _pass(self) -> None:
        """Make one pass of annealed importance sampling into the buffer."""
        with self.problem.phase("ais"):
            z, log_q, (log_p, grad_p) = self._samples(self.config.ais.batch, self.target.log_prob_and_gradient)
            usable = self._add_to_estimate(z, log_q, log_p)
            z, log_p, grad_p = z[usable], log_p[usable], grad_p[usable]
            log_q, grad_q = self.flow.log_prob_and_gradient(z)
            ends, log_weights = self.ais.run(Points(z, log_q, log_p, grad_q, grad_p))
        self.ais_share = float(effective_sample_size(log_weights.double()))
        self.problem.report_anomaly("dominant_weight", int(largest_share(log_weights) > LARGEST_SHARE), 1)
        self.buffer.add(self.target.wrap(ends.z), log_weights, ends.log_q)

    def _learn(self) -> None:
        """Update the flow on samples from the buffer."""
        config = self.config.training
        count = min(config.updates_per_pass, config.updates - self.updates)
        rows = self.buffer.draw(count * config.batch, self.streams.torch("replay", self.problem.device))
        losses = []
        with self.problem.phase("train"):
            for chosen in rows.split(config.batch):
                for group in self.optimiser.param_groups:
                    group["lr"] = self._learning_rate()
                self.optimiser.zero_grad(set_to_none=True)
                log_q = self._log_q(chosen)
                self.problem.report_anomaly("unusable_sample", (~log_q.isfinite()).sum(), len(chosen))
                factors = self.buffer.correct(chosen, log_q.detach(), self.config.buffer.correction_limit)
                loss = -(factors * torch.where(factors > 0, log_q, 0.0)).mean()
                loss.backward()
                value = float(loss.detach())
                if sound_step(self.problem, self.optimiser, clip_norm=config.clip_norm, sound=math.isfinite(value)):
                    losses.append(value)
                self.updates += 1
        self.loss = float(np.mean(losses)) if losses else math.nan

    def _log_q(self, chosen: torch.Tensor) -> torch.Tensor:
        """Return ``ln q`` of rows of the buffer, without a graph where it is not finite.

        Derivatives there may be NaN, and zero times NaN is NaN: one sample would spoil the gradient of every batch that
        it is in.
        """
        log_q: torch.Tensor = self.flow.log_prob(self.buffer.z[chosen])
        finite = log_q.detach().isfinite()
        if bool(finite.all()):
            return log_q
        return log_q.detach().masked_scatter(finite, self.flow.log_prob(self.buffer.z[chosen[finite]]))

    def _learning_rate(self) -> float:
        config = self.config.training
        if self.updates < config.warmup:
            return float(config.learning_rate * (self.updates + 1) / config.warmup)
        done = (self.updates - config.warmup) / max(config.updates - config.warmup, 1)
        return float(config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done)))

    def _evaluate(self) -> None:
        """Draw samples of the trained flow for the estimate."""
        count = min(self.config.estimate.chunk, self.config.estimate.samples - self.sampled)
        with self.problem.phase("evaluate"):
            self._add_to_estimate(*self._samples(count, self.target.log_prob))
        self.sampled += count

    def _estimate(self, stage: str) -> PMF:
        config: FABConfig = self.config
        self.share = self.histogram.flow_effective_sample_size
        self.progress = (self.updates / config.training.updates + self.sampled / config.estimate.samples) / 2
        self.status = f"{stage}: {self.updates:,} updates, effective sample size {self.share:.1%}"
        self.history.append(
            {
                "stage": stage,
                "evaluations": self.problem.evaluations,
                "updates": self.updates,
                "loss": self.loss,
                "effective_sample_size": self.share,
                "effective_sample_size_ais": self.ais_share,
                "effective_samples_of_estimate": self.histogram.effective_samples,
                "log_normalisation": self.histogram.log_normalisation,
                "step_size": list(self.ais.step_sizes),
                "acceptance": list(self.ais.acceptance),
                "buffer": len(self.buffer),
            }
        )
        self.flow_pmf = self.histogram.flow_pmf()
        if stage != "evaluate":
            self.histogram.forget_flow()
        if config.estimate.fit_orders is None:
            return self.histogram.pmf()
        fitted = self.histogram.better(config.estimate.fit_orders, FIT_FROM)
        self.facts = fitted.facts
        return fitted.pmf

    def auxiliary_estimates(self) -> Sequence[AuxiliaryEstimate]:
        """Return the histogram of the flow's samples without weights."""
        return [AuxiliaryEstimate("flow without reweighting", 0, 1.0, self.flow_pmf)]

    def log_density(self, x: torch.Tensor) -> torch.Tensor:
        """Log-density of the flow at configurations ``[batch]``; see `cgbench.contracts.method.Method.log_density`."""
        s, y, _ = self.target.coordinates.to_internal(x)
        return self.target.log_density(x, self.flow.log_prob(self.target.wrap(self.target.join(s, y))))

    # ---- record and checkpoint --------------------------------------------------------------------

    def diagnostics(self) -> dict[str, Any]:
        """Return the history, and warnings."""
        warnings = [] if self.history else ["the flow has not been trained yet"]
        if self.history and self.history[-1]["effective_sample_size"] < 0.01:
            warnings.append("the effective sample size of the flow's weights is below 1 %: the PMF is not reliable")
        if self.histogram.largest_share > LARGEST_SHARE:
            warnings.append(f"one sample has {self.histogram.largest_share:.0%} of the total weight of the PMF")
        warnings += warnings_of_errors(self.facts.get("expected_kld"))
        return {
            "history": list(self.history),
            "outside_state_space": self.dropped / max(self.drawn, 1),
            "truncated_weights": self.histogram.truncated,
            **self.facts,
            "reliable": not warnings,
            "warnings": warnings,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue."""
        return {
            "flow": dict(self.flow.state_dict()),
            "optimiser": self.optimiser.state_dict(),
            "ais": self.ais.state_dict(),
            "buffer": self.buffer.state_dict(),
            "histogram": self.histogram.state_dict(),
            "counts": [self.updates, self.sampled, self.dropped, self.drawn],
            "numbers": [self.loss, self.share, self.ais_share],
            "history": list(self.history),
            "facts": dict(self.facts),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.flow.load_state_dict(state["flow"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.ais.load_state_dict(state["ais"])
        self.buffer.load_state_dict(state["buffer"])
        self.histogram.load_state_dict(state["histogram"])
        self.updates, self.sampled, self.dropped, self.drawn = state["counts"]
        self.loss, self.share, self.ais_share = state["numbers"]
        self.history = list(state["history"])
        self.facts = dict(state.get("facts", {}))  # not in checkpoints of before
