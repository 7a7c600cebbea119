"""The methods ``ta_bg`` and ``cmt``: the loop over stages, and training."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from cgbench.contracts.declarations import Given
from cgbench.contracts.maps import Estimate
from cgbench.contracts.method import AuxiliaryEstimate, Method
from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench_methods.annealed_generators.config import AnnealedConfig, CMTConfig, TABGConfig
from cgbench_methods.annealed_generators.history import History
from cgbench_methods.annealed_generators.samples import FlowSamples
from cgbench_methods.annealed_generators.schedules import Buffer, ConstrainedTransport, Schedule, TemperatureLadder
from cgbench_methods.annealed_generators.training import (
    clipped,
    cosine,
    forward_kl,
    reverse_kl_gradient,
    training_weights,
)
from cgbench_methods.lib.estimators.importance import (
    LARGEST_SHARE,
    drawn_by_weight,
    effective_sample_size,
    largest_share,
)
from cgbench_methods.lib.flows.joint import JointTarget
from cgbench_methods.lib.flows.steps import sound_step

__all__ = ["AnnealedGenerator", "ConstrainedMassTransport", "TemperatureAnnealed"]

HOT, ANNEAL, EVALUATE = "reverse KL", "anneal", "evaluate"


class AnnealedGenerator(Method):
    """A flow over all coordinates, trained hot by reverse KL and then along a schedule of targets by forward KL.

    Each stage draws a buffer from the flow, evaluates it once, weights it to the next target, and trains the flow on
    it. All samples of the flow give the PMF, with their weights at the temperature of the PMF.
    """

    requires = frozenset({"gradient", "coordinates"})
    uncounted_in_publication = frozenset({"evaluate"})
    given = (
        Given(
            collective_variables="coordinates of the flow",
            coordinates="all are coordinates of the flow",
            state_space="nothing outside is evaluated",
            gradient="training at the highest temperature",
            temperatures="the highest",
            start="centre of the coordinates",
        ),
    )

    def __init__(self, problem: Problem, config: Any, streams: Streams) -> None:
        super().__init__(problem, config, streams)
        if config.compile:
            problem.compile()
        dtype = getattr(torch, config.flow.dtype)
        self.target = JointTarget(problem, config.flow, config.energy, dtype)
        self.flow = self.target.new_flow(streams.torch("flow weights"))
        self.optimisers = [self._optimiser(each.weight_decay) for each in (config.hot, config.annealing)]
        self.schedule = self._schedule(len(self.target.periodic))
        self.samples = FlowSamples(problem, streams, self.target, self.flow, config.estimate)
        self.stage, self.updates, self.repeated, self.sampled = 0, 0, 0, 0
        self.parts: list[Buffer] = []  # the buffer of this stage
        self.training: dict[str, torch.Tensor | None] | None = None
        self.history = History()

    def _optimiser(self, weight_decay: float) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.flow.parameters(), weight_decay=weight_decay, fused=True)

    @abstractmethod
    def _schedule(self, coordinates: int) -> Schedule:
        """Return the schedule of targets for a number of coordinates."""

    # ---- the loop ---------------------------------------------------------------------------------

    def estimates(self) -> Iterator[PMF | Estimate]:
        """Yield at growing numbers of evaluations, after each stage, and between updates so that a run can resume."""
        config: AnnealedConfig = self.config
        while self.stage == 0:
            self._learn_hot()
            finished = self.updates >= config.hot.updates
            if finished:
                self._next_stage()
            if finished or self._due() or self._checkpoint_due():
                yield self._report(HOT)
        while not self._annealed():
            while self.training is None:
                self._draw()
                if sum(len(part.z) for part in self.parts) >= config.annealing.draws:
                    self._advance()
                if self.training is None and self._due():
                    yield self._report(ANNEAL)
            self._learn()
            finished = self.updates >= config.annealing.updates
            if finished:
                self._next_stage()
            if finished or self._checkpoint_due():
                yield self._report(ANNEAL)
        while self.sampled < config.estimate.samples:
            with self.problem.phase("evaluate"):
                count = min(config.estimate.chunk, config.estimate.samples - self.sampled)
                self.samples.draw(count, anew=self._anew)
            self.sampled += count
            if self._due() or self.sampled >= config.estimate.samples:
                yield self._report(EVALUATE)

    def _annealed(self) -> bool:
        if self.schedule.exhausted and self.training is None:
            return True
        return self.schedule.at_target and self.training is None and self.repeated > self.config.annealing.repeats

    def _due(self) -> bool:
        last = self.history.evaluations
        if last is None:
            return self.samples.maps.sets > 0
        return bool(self.problem.evaluations >= last * 10 ** (1 / self.config.estimate.per_decade))

    def _checkpoint_due(self) -> bool:
        return bool(self.history.entries) and self.updates % self.config.updates_between_checkpoints == 0

    def _next_stage(self) -> None:
        self.stage, self.updates, self.parts, self.training = self.stage + 1, 0, [], None
        self.samples.stale = True
        if self.schedule.at_target:
            self.repeated += 1

    @property
    def _anew(self) -> bool:
        """Whether samples of earlier flows are left out: those of flows not trained on the density of the PMF."""
        return bool(self.stage) and self.repeated <= 1

    # ---- training ---------------------------------------------------------------------------------

    def _learn_hot(self) -> None:
        """Update the flow by the reverse KL divergence at the high temperature."""
        hot = self.config.hot
        optimiser = self.optimisers[0]
        self._set_rate(optimiser, cosine(hot.learning_rate, self.updates, hot.updates, hot.warmup))
        optimiser.zero_grad(set_to_none=True)
        with self.problem.phase("reverse_kl"):
            *found, loss = reverse_kl_gradient(
                self.flow,
                self.target,
                hot.batch,
                self.streams.torch("hot samples", self.problem.device),
                inverse_temperature=1.0 / hot.temperature,
                dropped=hot.dropped,
                path_gradient=hot.path_gradient,
                sample_clip=hot.sample_clip,
            )
        part = Buffer(*found)
        self.samples.add(part, anew=self._anew)
        share = float(effective_sample_size(part.log_weights(1.0 / hot.temperature)))
        self.history.facts = {"temperature": hot.temperature, "effective_sample_size_of_target": share}
        self._step(optimiser, hot.clip_norm, float(loss))

    def _draw(self) -> None:
        """Draw a part of the buffer from the flow, and evaluate it."""
        config: AnnealedConfig = self.config
        missing = config.annealing.draws - sum(len(part.z) for part in self.parts)
        with self.problem.phase("anneal"):
            self.parts.append(self.samples.draw(min(config.estimate.chunk, missing), anew=self._anew))

    def _advance(self) -> None:
        """Weight the buffer to the next target, and prepare the training on it."""
        config = self.config.annealing
        buffer = Buffer(*(torch.cat(each) for each in zip(*(vars(part).values() for part in self.parts), strict=True)))
        if not bool(buffer.log_weights().isfinite().any()):
            raise ValueError(
                "no sample of the flow has a positive density under the next target (nonfinite_energy, "
                "unusable_sample, or outside the state space)"
            )
        target = self.schedule.advance(buffer)
        log_weights = clipped(target.log_weights, config.clipped_share)
        usable = log_weights.isfinite()
        self.history.facts = {
            "target": target.name,
            "effective_sample_size_of_target": float(effective_sample_size(target.log_weights)),
            **target.facts,
        }
        self.problem.report_anomaly("dominant_weight", int(largest_share(log_weights) > LARGEST_SHARE), 1)
        self.parts = []
        if config.resampled is not None:
            generator = self.streams.torch("resampling", self.problem.device)
            rows = drawn_by_weight(log_weights, config.resampled, generator)
            self.training = {"z": buffer.z[rows], "weights": None}
        else:
            kept = usable.nonzero().squeeze(1)
            self.training = {"z": buffer.z[kept], "weights": training_weights(log_weights[kept], buffer.z.dtype)}

    def _learn(self) -> None:
        """Update the flow by the forward KL divergence on a batch of the buffer."""
        config = self.config.annealing
        assert self.training is not None
        z, weights = self.training["z"], self.training["weights"]
        assert z is not None
        generator = self.streams.torch("batches", self.problem.device)
        rows = torch.randint(len(z), (config.batch,), generator=generator, device=z.device)
        optimiser = self.optimisers[1]
        self._set_rate(optimiser, cosine(config.learning_rate, self.updates, config.updates, config.warmup))
        optimiser.zero_grad(set_to_none=True)
        with self.problem.phase("anneal"):
            loss = forward_kl(self.flow, z[rows], None if weights is None else weights[rows])
            loss.backward()
            self._step(optimiser, config.clip_norm, float(loss.detach()))

    def _set_rate(self, optimiser: torch.optim.Optimizer, rate: float) -> None:
        for group in optimiser.param_groups:
            group["lr"] = rate

    def _step(self, optimiser: torch.optim.Optimizer, clip_norm: float, loss: float) -> None:
        if sound_step(self.problem, optimiser, clip_norm=clip_norm, sound=math.isfinite(loss)):
            self.history.losses.append(loss)
        self.updates += 1

    # ---- estimates --------------------------------------------------------------------------------

    def _report(self, phase: str) -> PMF | Estimate:
        """Return the estimate, and describe the position."""
        found = self.samples.estimate()
        config: AnnealedConfig = self.config
        share = float(effective_sample_size(torch.cat(self.samples.log_weights).double()))
        if phase == HOT:
            self.progress = 0.25 * (1.0 if self.stage else self.updates / config.hot.updates)
            done = "finished" if self.stage else f"{self.updates:,} of {config.hot.updates:,} updates"
        elif phase == ANNEAL:
            self.progress = 0.25 + 0.5 * self.schedule.progress
            target = self.history.facts.get("target", "first target")
            if self.training is not None:
                done = f"{target}, {self.updates:,} of {config.annealing.updates:,} updates"
            else:
                done = "drawing samples" if self.parts else f"{target}, finished"
        else:
            self.progress = 0.75 + 0.25 * self.sampled / config.estimate.samples
            done = f"{self.sampled:,} of {config.estimate.samples:,} samples"
        self.status = f"{phase}: {done}, effective sample size {share:.1%}"
        if self.history.evaluations != self.problem.evaluations or not self.updates:
            self.history.add(phase, self.stage, self.problem.evaluations, self.samples, share)
        if phase == HOT:
            self.samples.stale = (
                True  # the flow changes with every update: its own samples are those since the last estimate
            )
        return found

    def auxiliary_estimates(self) -> Sequence[AuxiliaryEstimate]:
        """Return the histogram of the flow's samples without weights."""
        return [AuxiliaryEstimate("flow without reweighting", 0, 1.0, self.samples.maps.flow_estimate())]

    def log_density(self, x: torch.Tensor) -> torch.Tensor:
        """Log-density of the flow at configurations ``[batch]``; see `cgbench.contracts.method.Method.log_density`."""
        s, y, _ = self.target.coordinates.to_internal(x)
        return self.target.log_density(x, self.flow.log_prob(self.target.wrap(self.target.join(s, y))))

    # ---- record and checkpoint --------------------------------------------------------------------

    def diagnostics(self) -> dict[str, Any]:
        """Return the history, facts about the fit, and warnings."""
        return self.history.diagnostics(self.schedule, self.samples)

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue."""
        return {
            "flow": dict(self.flow.state_dict()),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "schedule": self.schedule.state_dict(),
            "counts": [self.stage, self.updates, self.repeated, self.sampled, self.samples.dropped, self.samples.drawn],
            "parts": [dict(vars(part)) for part in self.parts],
            "training": None if self.training is None else dict(self.training),
            **self.samples.state_dict(),
            **self.history.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.flow.load_state_dict(state["flow"])
        for optimiser, its in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(its)
        self.schedule.load_state_dict(state["schedule"])
        self.stage, self.updates, self.repeated, self.sampled, dropped, drawn = state["counts"]
        self.samples.load_state_dict(state, dropped, drawn)
        self.history.load_state_dict(state)
        device = self.problem.device
        self.parts = [Buffer(**{name: value.to(device) for name, value in part.items()}) for part in state["parts"]]
        training = state["training"]
        if training is not None:
            training = {name: None if value is None else value.to(device) for name, value in training.items()}
        self.training = training


class TemperatureAnnealed(AnnealedGenerator):
    """Temperature-annealed Boltzmann generator (TA-BG): the targets are Boltzmann densities at falling temperatures."""

    name = "ta_bg"
    Config = TABGConfig

    def _schedule(self, coordinates: int) -> Schedule:
        return TemperatureLadder(self.config.ladder, self.config.hot.temperature)


class ConstrainedMassTransport(AnnealedGenerator):
    """Constrained mass transport (CMT): bounds on KL divergence and decrease of entropy limit each target."""

    name = "cmt"
    Config = CMTConfig

    def _schedule(self, coordinates: int) -> Schedule:
        return ConstrainedTransport(self.config.transport, coordinates)
