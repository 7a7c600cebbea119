"""Our own recipe: a harmonic warm start, path gradients, and every sample a label."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.method import Problem
from cgbench.pmf import PMF
from cgbench.streams import Streams
from methods.cgflow.affine import fit_to_atlas
from methods.cgflow.basis import FourierBasis
from methods.cgflow.exploration import Walk, broaden, difference, farthest_points, walk
from methods.cgflow.harmonic import Atlas
from methods.cgflow.harmonic_config import HarmonicConfig
from methods.cgflow.labels import LabelStore
from methods.cgflow.snapshots import Snapshots, efficiency_map
from methods.cgflow.stack import conditional_flow
from methods.cgflow.surrogate import FourierSurrogate
from methods.cgflow.training import path_gradient_step, plain_gradient_step, set_learning_rate
from methods.flows.build import ConditionalFlow
from methods.flows.steps import LARGEST_SHARE, sound_step
from methods.flows.target import ConditionalTarget

__all__ = ["HarmonicRecipe"]


RELIABLE_PARETO_K = 0.7
LEAST_EFFICIENCY = 0.02
IDLE_EXTENSIONS = 5  # of the atlas, one after the other, that no point survived; then it grows no more
FIGURE_SAMPLES = 4  # configurations for figures, at each bin


class HarmonicRecipe:
    """State and steps of the recipe; `estimates` drives them.

    Parameters
    ----------
    problem, config, streams
        As for `cgbench.method.Method`.
    """

    def __init__(self, problem: Problem, config: HarmonicConfig, streams: Streams) -> None:
        self.problem, self.config, self.streams = problem, config, streams
        self.cvs = problem.cvs
        self.target = ConditionalTarget(problem, problem.coordinate_sets[config.coordinates])
        self.coordinates = self.target.coordinates
        self.basis = FourierBasis(self.cvs, config.flow.feature_order)
        self.atlas = Atlas.empty(len(self.cvs), self.target.size)
        self.atlas_model = FourierSurrogate(
            self.cvs, config.surrogate.order, config.atlas.length_scale, config.atlas.amplitude
        )
        self.surrogate = self._fresh_surrogate()
        self.labels = LabelStore(self.cvs)
        self.flow: ConditionalFlow | None = None
        self.optimiser: torch.optim.Optimizer | None = None
        self.stage: str = "atlas"
        self.round: int = 0
        self.new_points = torch.zeros(0, len(self.cvs), dtype=torch.float64)
        self.history: list[dict[str, Any]] = []
        self.snapshots = Snapshots(self.cvs)
        self.status = "starting"
        self.progress: float | None = None

    # ---- the loop -------------------------------------------------------------------------------

    def estimates(self) -> Iterator[PMF]:
        """Yield the PMF after the atlas, after each round of training and after each round of labels."""
        if self.stage == "atlas":
            with self.problem.phase("warm_start"):
                self._grow_atlas()
            self._start_flow()
            self.stage = "train"
            yield self._pmf()
        while self.stage == "train":
            with self.problem.phase("train"):
                self._train_round()
            self._fit_surrogate()
            self._explore()
            self.round += 1
            if self.round == self.config.training.rounds:
                self.stage, self.round = "label", 0
            yield self._pmf()
        while self.stage == "label":
            if self._finished():
                self.stage = "done"
                break
            with self.problem.phase("label"):
                self._label_round()
            self._fit_surrogate()
            self._explore()
            self.round += 1
            yield self._pmf()

    def _finished(self) -> bool:
        settled = len(self.new_points) == 0 and self.expected_kld() <= self.config.labels.target_kld
        return settled or self.round >= self.config.labels.max_rounds

    # ---- the harmonic atlas ---------------------------------------------------------------------

    def _grow_atlas(self) -> None:
        config = self.config.atlas
        x = self.problem.initial_configuration()[None].double()
        s, y, _ = self.coordinates.to_internal(x)
        unit = torch.eye(self.target.size, dtype=torch.float64)[None]
        self.atlas = self._chart(s, y, unit, steps=config.relax_steps)
        if not len(self.atlas):
            raise ValueError(
                "no atlas can grow: the energy of the initial configuration, or its Hessian, is not finite "
                "(nonfinite_energy)"
            )
        idle = 0
        while len(self.atlas) < config.max_points and idle < IDLE_EXTENSIONS:
            chosen = self._grid_neighbours() if config.grid else self._uncertain_points()
            if not config.grid:
                self._keep_stage("atlas", self.atlas_model, config.threshold, chosen)
            if len(chosen) == 0:
                break
            idle = 0 if self._extend_atlas(chosen) else idle + 1
            self.status = f"atlas of {len(self.atlas)} points"
        self._fit_atlas_model()

    def _chart(self, s: torch.Tensor, y: torch.Tensor, hessian: torch.Tensor, steps: int) -> Atlas:
        config = self.config.atlas
        charted = Atlas.chart(
            self.target,
            s,
            y,
            hessian,
            steps=steps,
            tolerance=config.relax_tolerance,
            stiffness_floor=config.stiffness_floor,
        )
        self.problem.incident("unusable_label", len(s) - len(charted), len(s))
        return charted

    def _extend_atlas(self, s: torch.Tensor) -> int:
        distance = difference(self.cvs, s[:, None], self.atlas.s[None]).norm(dim=2)
        parent = distance.argmin(dim=1)
        new = self._chart(s, self.atlas.y[parent], self.atlas.hessian[parent], self.config.atlas.relax_steps)
        self.atlas = self.atlas.append(new)
        return len(new)

    def _fit_atlas_model(self) -> None:
        config = self.config.atlas
        values = (self.atlas.free_energy - self.atlas.free_energy.min()).clamp(max=config.ceiling)
        noise = torch.full_like(values, config.noise)
        self.atlas_model.fit_values(self.atlas.s, values, noise)

    def _uncertain_points(self) -> torch.Tensor:
        config = self.config.atlas
        self._fit_atlas_model()
        generator = self.streams.torch("atlas walk")
        low = (self.atlas.free_energy - self.atlas.free_energy.min() < config.ceiling).nonzero().squeeze(1)
        start = low[torch.randint(len(low), (config.walkers,), generator=generator)]
        outcome = walk(
            self.cvs,
            self.atlas_model.table(),
            self.atlas.s[start],
            generator,
            step=config.walk_step,
            threshold=config.threshold,
            max_steps=config.walk_steps,
            wanted=2 * config.batch,
            temperature_factor=config.temperature_factor,
        )
        candidates = outcome.positions[outcome.stopped]
        count = min(config.batch, config.max_points - len(self.atlas))
        return candidates[farthest_points(self.cvs, candidates, count, self.atlas.s, config.min_distance)]

    def _grid_neighbours(self) -> torch.Tensor:
        """Nodes of the regular grid not yet charted, those within reach of charted points first."""
        config = self.config.atlas
        assert config.grid is not None
        axes = []
        for low, high, periodic in zip(self.cvs.lower, self.cvs.upper, self.cvs.periodic, strict=True):
            offset = 0.0 if periodic else 0.5
            axes.append(low + (high - low) * (torch.arange(config.grid, dtype=torch.float64) + offset) / config.grid)
        nodes = torch.cartesian_prod(*axes).reshape(-1, len(self.cvs))
        spacing = torch.tensor(
            [(high - low) / config.grid for low, high in zip(self.cvs.lower, self.cvs.upper, strict=True)],
            dtype=torch.float64,
        )
        away = (difference(self.cvs, nodes[:, None], self.atlas.s[None]) / spacing).norm(dim=2)
        charted = (away[:, 1:] < 1e-6).any(dim=1)
        reach = away.min(dim=1).values.masked_fill(charted, torch.inf)
        order = reach.argsort(stable=True)[: config.max_points - len(self.atlas)]
        order = order[reach[order] < 1.05]
        return nodes[order]

    # ---- the flow -------------------------------------------------------------------------------

    def _fresh_surrogate(self) -> FourierSurrogate:
        config = self.config.surrogate
        return FourierSurrogate(self.cvs, config.order, config.length_scales[0], config.amplitudes[-1])

    def _start_flow(self) -> None:
        self._build_flow()
        self.surrogate.adopt_posterior(self.atlas_model)

    def _build_flow(self) -> None:
        config = self.config.flow
        periodic = self.coordinates.periodic
        affine = fit_to_atlas(
            self.atlas,
            periodic,
            self.basis,
            stiffness_offset=self.config.atlas.stiffness_offset,
            smoothness=self.config.atlas.smoothness,
        )
        self.flow = conditional_flow(
            self.coordinates,
            [affine],
            context_features=len(self.basis),
            num_couplings=config.num_couplings,
            hidden_features=config.hidden_features,
            num_blocks=config.num_blocks,
            num_bins=config.num_bins,
            generator=self.streams.torch("flow weights"),
            dtype=torch.float64,
        )
        gaussian = list(affine.parameters())
        known = {id(p) for p in gaussian}
        others = [p for p in self.flow.parameters() if id(p) not in known]
        groups = [{"params": gaussian}] + ([{"params": others}] if others else [])
        self.optimiser = torch.optim.Adam(groups, lr=0.0, betas=(0.9, 0.99), fused=True)

    def _train_round(self) -> None:
        config = self.config.training
        assert self.flow is not None and self.optimiser is not None
        total = config.rounds * config.steps_per_round
        generator = self.streams.torch("training samples")
        s_all = self._draw_s(config.steps_per_round * config.batch)
        log_weights, slopes = [], []
        for step in range(config.steps_per_round):
            s = s_all[step * config.batch : (step + 1) * config.batch]
            done = (self.round * config.steps_per_round + step) / total
            decay = 0.5 * (1 + math.cos(math.pi * done))
            rates = (config.gaussian_learning_rate * decay, config.learning_rate * decay)
            set_learning_rate(self.optimiser, rates[: len(self.optimiser.param_groups)])
            self.optimiser.zero_grad(set_to_none=True)
            take_step = path_gradient_step if config.path_gradients else plain_gradient_step
            labels = take_step(self.flow, self.target, s, self.basis, generator, clip_norm=config.clip_norm)
            log_weights.append(labels[0])
            slopes.append(labels[1])
            sound_step(self.problem, self.optimiser)
            self.progress = done
        if not config.labels:
            return
        known = torch.cat(slopes) if self.config.labels.mean_force else None
        self._add_labels(s_all, torch.cat(log_weights), known)

    def _add_labels(
        self, s: torch.Tensor, log_weights: torch.Tensor, slopes: torch.Tensor | None, new_group: bool = True
    ) -> None:
        dropped = self.labels.add(s, log_weights, slopes, new_group)
        self.problem.incident("unusable_label", dropped, len(s))

    def _label_round(self) -> None:
        assert self.flow is not None
        self.progress = None  # how many rounds it takes is not known
        config = self.config.labels
        s = self._draw_s(config.batch)
        generator = self.streams.torch("label samples")
        log_weights, slopes = [], []
        for part in s.split(1024):
            if config.mean_force:
                labels = path_gradient_step(self.flow, self.target, part, self.basis, generator, clip_norm=None)
                log_weights.append(labels[0])
                slopes.append(labels[1])
            else:
                with torch.no_grad():
                    y, log_q = self.flow.sample_with_log_prob(self.basis(part), generator)
                    log_weights.append(-(self.target.energy(part, y) + log_q))
        known = torch.cat(slopes) if slopes else None
        self._add_labels(s, torch.cat(log_weights), known, new_group=self.round == 0)

    # ---- where to look, and what is known ---------------------------------------------------------

    def _draw_s(self, count: int) -> torch.Tensor:
        """Draw s where the PMF is low, and around the points that the walkers found uncertain."""
        config = self.config.labels
        generator = self.streams.torch("design")
        near = round(self.config.surrogate.share * count) if len(self.new_points) else 0
        parts = []
        if near:
            each = -(-near // len(self.new_points))
            around = broaden(self.cvs, self.new_points, self.config.surrogate.radius, each, generator)
            parts.append(around[torch.randperm(len(around), generator=generator)[:near]])
        nodes = torch.from_numpy(self.cvs.grid())
        mean, _ = self.surrogate.on_grid()
        mean = mean - mean.min()
        density = torch.exp(-mean / config.softness) * (mean < config.ceiling)
        density = density / density.sum()
        flat = (mean < config.ceiling).double()
        density = (1 - config.uniform_share) * density + config.uniform_share * flat / flat.sum()
        cells = torch.multinomial(density, count - near, replacement=True, generator=generator)
        width = torch.tensor(
            [(h - lo) / b for lo, h, b in zip(self.cvs.lower, self.cvs.upper, self.cvs.bins, strict=True)],
            dtype=torch.float64,
        )
        jitter = torch.rand(count - near, len(self.cvs), generator=generator, dtype=torch.float64) - 0.5
        parts.append(nodes[cells] + jitter * width)
        s = torch.cat(parts)
        return s[torch.randperm(len(s), generator=generator)]

    def _fit_surrogate(self) -> None:
        """Fit to all labels; the prior with the largest evidence wins.

        Without a label of any weight, or where the fit fails, the model stays what it was.
        """
        if self.labels.weightless or not self._fitted():
            expected = self.stage == "train" and not self.config.training.labels
            self.history.append(
                {"evaluations": self.problem.evaluations, "stage": self.stage, "unfitted": not expected}
            )
            return
        quality = self.labels.quality(self.surrogate)
        # such a weight is cut at a multiple of the model (LabelConfig.truncation)
        self.problem.incident("dominant_weight", int(quality["largest_share"] > LARGEST_SHARE), 1)
        self.history.append(
            {
                "evaluations": self.problem.evaluations,
                "stage": self.stage,
                **quality,
                "expected_kld": self.expected_kld(),
                "length_scale": self.surrogate.length_scale,
                "amplitude": self.surrogate.amplitude,
                "dispersion": self.labels.dispersion,
            }
        )
        self.status = f"{self.stage} round {self.round + 1}, ESS {quality['effective_sample_size']:.0%}"

    def _fitted(self) -> bool:
        """Fit; back to the model before if the new one has no spread anywhere, or is not finite."""
        config, truncation = self.config.surrogate, self.config.labels.truncation
        model, variances = self.surrogate.state_dict(), self.labels.variances()
        try:
            self.labels.fit(self.surrogate, truncation)
            self.surrogate.choose_prior(config.length_scales, config.amplitudes)
            self.labels.fit(self.surrogate, truncation, sweeps=1)
            mean, std = self.surrogate.on_grid()
            sound = bool(mean.isfinite().all() & std.isfinite().all() & (std > 0).any())
        except torch.linalg.LinAlgError:  # of a matrix with infinite elements
            sound = False
        self.problem.incident("no_spread", int(not sound), 1)
        if not sound:
            self.surrogate.load_state_dict(model)
            self.labels.set_variances(variances)
        return sound

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
        self._keep_stage(self.stage, self.surrogate, config.threshold, self.new_points)

    def _keep_stage(self, name: str, model: FourierSurrogate, threshold: float, points: torch.Tensor) -> None:
        configurations = None
        if self.flow is not None and len(self.cvs) == 1:  # of more, no figure shows them
            s = torch.from_numpy(self.cvs.grid()).repeat_interleave(FIGURE_SAMPLES, 0)
            with torch.no_grad():
                y, _ = self.flow.sample_with_log_prob(self.basis(s), self.streams.torch("figure samples"))
                configurations, _ = self.coordinates.to_cartesian(s, y)
        mean, std = model.on_grid()
        self.snapshots.add(name, self.problem.evaluations, mean, std, threshold, points, configurations)

    def _bin_std(self) -> np.ndarray:
        return np.asarray(self.surrogate.on_grid()[1].numpy().reshape(self.cvs.bins))

    def expected_kld(self) -> float:
        """Forward KLD that the posterior of the PMF expects, to second order: ``sum p var / 2``."""
        mean, std = self.surrogate.on_grid()
        return float(0.5 * (torch.softmax(-mean, 0) * std**2).sum())

    def _pmf(self) -> PMF:
        return PMF.from_function(
            self.cvs, lambda s: self.surrogate.mean(torch.from_numpy(s)).numpy(), subdivisions=3, std=self._bin_std()
        )

    # ---- checkpoints ------------------------------------------------------------------------------

    def diagnostics(self) -> dict[str, Any]:
        """Return the history of the run, one entry per round, the size of the atlas, and warnings."""
        warnings = []
        last = self.history[-1] if self.history else {}
        if last.get("unfitted"):
            warnings.append(
                "the last labels could not be fitted: the PMF is that of the fit before, or the atlas's alone"
            )
        if last.get("largest_share", 0.0) > LARGEST_SHARE:
            warnings.append(f"one of the last weights holds {last['largest_share']:.0%} of their sum")
        if last.get("pareto_k", 0.0) > RELIABLE_PARETO_K:
            warnings.append(f"weights have a heavy tail (Pareto k = {last['pareto_k']:.2f}): labels may be too high")
        efficiency = last.get("effective_sample_size", 1.0)
        if not efficiency > LEAST_EFFICIENCY:
            warnings.append(f"effective sample size {efficiency:.1%}: the flow is poor, and so are the labels")
        return {
            "atlas_points": len(self.atlas),
            "labels": len(self.labels),
            "rounds": list(self.history),
            "warnings": warnings,
        }

    def extra_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the atlas's points with their harmonic PMF, stages, and effective sample sizes by place.

        ``efficiency`` is that of the last quarter of the labels.
        """
        found: dict[str, NDArray[Any]] = {
            "atlas_points": self.atlas.s.numpy(),
            "atlas_free_energy": (self.atlas.free_energy - self.atlas.free_energy.min()).numpy(),
        }
        if len(self.labels):
            late = slice(3 * len(self.labels) // 4, None)
            s = self.labels.s[late]
            excess = self.labels.log_weights[late] + self.surrogate.mean(s)
            found["efficiency"] = efficiency_map(self.cvs, s, excess).numpy()
        return found | self.snapshots.arrays()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on."""
        assert self.flow is not None and self.optimiser is not None
        return {
            "stage": self.stage,
            "round": self.round,
            "atlas": self.atlas.state_dict(),
            "atlas_model": self.atlas_model.state_dict(),
            "surrogate": self.surrogate.state_dict(),
            "labels": self.labels.state_dict(),
            "new_points": self.new_points,
            "history": list(self.history),
            "snapshots": self.snapshots.state_dict(),
            "flow": dict(self.flow.state_dict()),
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.atlas = Atlas(**state["atlas"])
        self.atlas_model.load_state_dict(state["atlas_model"])
        self.surrogate.load_state_dict(state["surrogate"])
        self.labels.load_state_dict(state["labels"])
        self._build_flow()
        assert self.flow is not None and self.optimiser is not None
        self.flow.load_state_dict(state["flow"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.stage, self.round = str(state["stage"]), int(state["round"])
        self.new_points = state["new_points"]
        self.history = list(state["history"])
        self.snapshots.load_state_dict(state["snapshots"])
