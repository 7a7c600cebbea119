"""Our own recipe: a harmonic warm start, path gradients, and every sample a label."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from cgbench.contracts.method import Activity
from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench_methods.cgflow.common.design import draw_around, draw_where_low
from cgbench_methods.cgflow.common.diagnostics import harmonic_warnings
from cgbench_methods.cgflow.common.exploration import Walk, farthest_points, walk
from cgbench_methods.cgflow.common.stages import Stages, configurations_of, efficiency_map
from cgbench_methods.cgflow.common.training import path_gradient_step, plain_gradient_step, set_learning_rate
from cgbench_methods.cgflow.harmonic.config import HarmonicConfig
from cgbench_methods.cgflow.harmonic.flow import draw_weighted_samples, flow_on_minima
from cgbench_methods.cgflow.harmonic.minima import HarmonicMinima
from cgbench_methods.cgflow.harmonic.posterior import expected_kld, fit_or_restore, pmf_of
from cgbench_methods.cgflow.harmonic.samples import WeightedSamples
from cgbench_methods.cgflow.harmonic.search import MinimaSearch
from cgbench_methods.lib.estimators.fourier import FourierBasis
from cgbench_methods.lib.estimators.importance import LARGEST_SHARE
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate
from cgbench_methods.lib.flows.build import ConditionalFlow
from cgbench_methods.lib.flows.steps import sound_step
from cgbench_methods.lib.flows.target import ConditionalTarget

__all__ = ["HarmonicRecipe"]


class HarmonicRecipe:
    """State and steps of the recipe; `estimates` drives them.

    Parameters
    ----------
    problem, config, streams
        As for `cgbench.contracts.method.Method`.
    """

    uncounted_in_publication = frozenset(
        {"seed_md", "validate"}
    )  # weighted samples are part of what the PMF is made of

    def __init__(self, problem: Problem, config: HarmonicConfig, streams: Streams) -> None:
        self.problem, self.config, self.streams = problem, config, streams
        self.cvs, self.device = problem.cvs, problem.device
        self.target = ConditionalTarget(problem, problem.coordinate_sets[config.coordinates])
        self.coordinates = self.target.coordinates
        self.basis = FourierBasis(self.cvs, config.flow.feature_order)
        self.stages = Stages(self.cvs)
        self.search = MinimaSearch(problem, self.target, config.atlas, config.surrogate.order, self.stages, streams)
        self.surrogate = FourierSurrogate(
            self.cvs, config.surrogate.order, config.surrogate.length_scales[0], config.surrogate.amplitudes[-1]
        )
        self.samples = WeightedSamples(self.cvs)
        self.flow: ConditionalFlow | None = None
        self.optimiser: torch.optim.Optimizer | None = None
        self.stage: str = "atlas"
        self.round: int = 0
        self.new_points = torch.zeros(0, len(self.cvs), dtype=torch.float64)
        self.history: list[dict[str, Any]] = []
        self.activity = Activity()

    @property
    def minima(self) -> HarmonicMinima:
        """The harmonic minima found so far."""
        return self.search.minima

    # ---- the loop -------------------------------------------------------------------------------

    def estimates(self) -> Iterator[PMF]:
        """Yield the PMF after the atlas, after each round of training and after each round of labels."""
        if self.stage == "atlas":
            with self.problem.phase("warm_start"):
                for points in self.search.grow():
                    self.activity.status = f"atlas of {points} points"
            self._build_flow()
            self.surrogate.adopt_posterior(self.search.model)
            self.stage = "train"
            yield pmf_of(self.surrogate)
        while self.stage == "train":
            with self.problem.phase("train"):
                self._train_round()
            self._learn()
            self.round += 1
            if self.round == self.config.training.rounds:
                self.stage, self.round = "label", 0
            yield pmf_of(self.surrogate)
        while self.stage == "label":
            if self._finished():
                self.stage = "done"
                break
            with self.problem.phase("label"):
                self._label_round()
            self._learn()
            self.round += 1
            yield pmf_of(self.surrogate)

    def _learn(self) -> None:
        with self.problem.phase("fit"):
            self._fit_surrogate()
        with self.problem.phase("explore"):
            self._explore()

    def _finished(self) -> bool:
        settled = len(self.new_points) == 0 and self.expected_kld() <= self.config.labels.target_kld
        return settled or self.round >= self.config.labels.max_rounds

    # ---- the flow -------------------------------------------------------------------------------

    def _build_flow(self) -> None:
        self.flow, self.optimiser = flow_on_minima(
            self.minima, self.coordinates, self.basis, self.config, self.streams.torch("flow weights"), self.device
        )

    def _train_round(self) -> None:
        config = self.config.training
        assert self.flow is not None and self.optimiser is not None
        total = config.rounds * config.steps_per_round
        generator = self.streams.torch("training samples", self.device)
        s_all = self._draw_s(config.steps_per_round * config.batch)
        log_weights, slopes = [], []
        for step in range(config.steps_per_round):
            s = s_all[step * config.batch : (step + 1) * config.batch].to(self.device)
            done = (self.round * config.steps_per_round + step) / total
            decay = 0.5 * (1 + math.cos(math.pi * done))
            rates = (config.gaussian_learning_rate * decay, config.learning_rate * decay)
            set_learning_rate(self.optimiser, rates[: len(self.optimiser.param_groups)])
            self.optimiser.zero_grad(set_to_none=True)
            take_step = path_gradient_step if config.path_gradients else plain_gradient_step
            labels = take_step(self.flow, self.target, s, self.basis, generator, clip_norm=config.clip_norm)
            log_weights.append(labels[0].cpu())
            slopes.append(labels[1].cpu())
            sound_step(self.problem, self.optimiser)
            self.activity.progress = done
        if not config.labels:
            return
        known = torch.cat(slopes) if self.config.labels.mean_force else None
        self._add_labels(s_all, torch.cat(log_weights), known)

    def _add_labels(
        self, s: torch.Tensor, log_weights: torch.Tensor, slopes: torch.Tensor | None, new_group: bool = True
    ) -> None:
        dropped = self.samples.add(s, log_weights, slopes, new_group)
        self.problem.report_anomaly("unusable_sample", dropped, len(s))

    def _label_round(self) -> None:
        assert self.flow is not None
        self.activity.progress = None  # how many rounds it takes is not known
        config = self.config.labels
        s = self._draw_s(config.batch)
        generator = self.streams.torch("label samples", self.device)
        log_weights, slopes = draw_weighted_samples(
            self.flow, self.target, s.to(self.device), self.basis, generator, mean_force=config.mean_force
        )
        self._add_labels(s, log_weights.cpu(), None if slopes is None else slopes.cpu(), new_group=self.round == 0)

    # ---- where to look, and what is known ---------------------------------------------------------

    def _draw_s(self, count: int) -> torch.Tensor:
        """Draw s where the PMF is low, and around the points that the walkers found uncertain."""
        config = self.config.labels
        generator = self.streams.torch("design")
        near = round(self.config.surrogate.share * count) if len(self.new_points) else 0
        parts = []
        if near:
            parts.append(draw_around(self.cvs, self.new_points, self.config.surrogate.radius, near, generator))
        low = draw_where_low(
            self.cvs,
            self.surrogate.on_grid()[0],
            count - near,
            generator,
            softness=config.softness,
            ceiling=config.ceiling,
            uniform_share=config.uniform_share,
        )
        s = torch.cat([*parts, low])
        return s[torch.randperm(len(s), generator=generator)]

    def _fit_surrogate(self) -> None:
        """Fit to all labels; the prior with the largest evidence wins.

        Without a label of any weight, or where the fit fails, the model stays what it was.
        """
        if self.samples.weightless or not self._fitted():
            expected = self.stage == "train" and not self.config.training.labels
            self.history.append(
                {"evaluations": self.problem.evaluations, "stage": self.stage, "unfitted": not expected}
            )
            return
        quality = self.samples.quality(self.surrogate)
        # such a weight is cut at a multiple of the model (LabelConfig.truncation)
        self.problem.report_anomaly("dominant_weight", int(quality["largest_share"] > LARGEST_SHARE), 1)
        self.history.append(
            {
                "evaluations": self.problem.evaluations,
                "stage": self.stage,
                **quality,
                "expected_kld": self.expected_kld(),
                "length_scale": self.surrogate.length_scale,
                "amplitude": self.surrogate.amplitude,
                "dispersion": self.samples.dispersion,
            }
        )
        self.activity.status = f"{self.stage} round {self.round + 1}, ESS {quality['effective_sample_size']:.0%}"

    def _fitted(self) -> bool:
        fitted = fit_or_restore(self.surrogate, self.samples, self.config.surrogate, self.config.labels.truncation)
        self.problem.report_anomaly("collapsed_ensemble", int(not fitted), 1)
        return fitted

    def _explore(self) -> None:
        config = self.config.surrogate
        generator = self.streams.torch("walk")
        start = self._draw_s(config.walkers) if len(self.new_points) == 0 else self.new_points
        start = start[torch.randint(len(start), (config.walkers,), generator=generator)]
        outcome: Walk = walk(
            self.cvs,
            self.surrogate.table(),
            start,
            generator,
            step=config.walk_step,
            threshold=config.threshold,
            max_steps=config.walk_steps,
            wanted=2 * config.new_points,
        )
        candidates = outcome.positions[outcome.stopped]
        chosen = farthest_points(self.cvs, candidates, config.new_points)
        self.new_points = candidates[chosen]
        self.history[-1]["uncertain_walkers"] = int(outcome.stopped.sum())
        self._keep_stage()

    def _keep_stage(self) -> None:
        assert self.flow is not None
        configurations = configurations_of(self.flow, self.coordinates, self.cvs, self.basis, self.streams, self.device)
        mean, std = self.surrogate.on_grid()
        threshold = self.config.surrogate.threshold
        self.stages.add(self.stage, self.problem.evaluations, mean, std, threshold, self.new_points, configurations)

    def expected_kld(self) -> float:
        """Forward KLD that the posterior of the PMF expects."""
        return expected_kld(self.surrogate)

    # ---- checkpoints ------------------------------------------------------------------------------

    def diagnostics(self) -> dict[str, Any]:
        """Return the history of the run, one entry per round, the size of the atlas, and warnings."""
        return {
            "atlas_points": len(self.minima),
            "labels": len(self.samples),
            "rounds": list(self.history),
            "warnings": harmonic_warnings(self.history),
        }

    def extra_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the atlas's points with their harmonic PMF, stages, and effective sample sizes by place.

        ``efficiency`` is that of the last quarter of the labels.
        """
        found: dict[str, NDArray[Any]] = {
            "atlas_points": self.minima.s.numpy(),
            "atlas_free_energy": (self.minima.free_energy - self.minima.free_energy.min()).numpy(),
        }
        if len(self.samples):
            late = slice(3 * len(self.samples) // 4, None)
            s = self.samples.s[late]
            excess = self.samples.log_weights[late] + self.surrogate.mean(s)
            found["efficiency"] = efficiency_map(self.cvs, s, excess).numpy()
        return found | self.stages.arrays()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on."""
        assert self.flow is not None and self.optimiser is not None
        return {
            "stage": self.stage,
            "round": self.round,
            "atlas": self.minima.state_dict(),
            "atlas_model": self.search.model.state_dict(),
            "surrogate": self.surrogate.state_dict(),
            "labels": self.samples.state_dict(),
            "new_points": self.new_points,
            "history": list(self.history),
            "snapshots": self.stages.state_dict(),
            "flow": dict(self.flow.state_dict()),
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.search.minima = HarmonicMinima(**state["atlas"])
        self.search.model.load_state_dict(state["atlas_model"])
        self.surrogate.load_state_dict(state["surrogate"])
        self.samples.load_state_dict(state["labels"])
        self._build_flow()
        assert self.flow is not None and self.optimiser is not None
        self.flow.load_state_dict(state["flow"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.stage, self.round = str(state["stage"]), int(state["round"])
        self.new_points = state["new_points"]
        self.history = list(state["history"])
        self.stages.load_state_dict(state["snapshots"])
