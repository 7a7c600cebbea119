"""The published recipe, with the one change that nothing in it sees the truth.

What the publication leaves open and was chosen here: an epoch's batch counts values of s, each with all its
latent samples; the activations are SiLU; labels are new samples of the flow (phase "label"), made once
an iteration; between iterations, estimates come free of charge from the weights of the last epoch. The
publication stops when the divergence to the ground truth is small; here the end is that no walker finds an
uncertain place within its steps.
"""

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
from methods.cgflow.ensemble import NetworkEnsemble
from methods.cgflow.exploration import broaden, farthest_points, walk
from methods.cgflow.gaussian import ConditionalGaussian
from methods.cgflow.labels import mean_weight_labels
from methods.cgflow.published_config import PublishedConfig
from methods.cgflow.snapshots import Snapshots, efficiency_map
from methods.cgflow.stack import conditional_flow
from methods.cgflow.surrogate import FourierSurrogate
from methods.cgflow.training import by_example_loss, reverse_kl_losses
from methods.dynamics.langevin import Langevin
from methods.dynamics.metropolis import Metropolis
from methods.dynamics.walkers import end_block
from methods.flows.steps import LARGEST_SHARE, largest_share, sound_step
from methods.flows.target import ConditionalTarget

__all__ = ["PublishedConfig", "PublishedRecipe"]

FIGURE_SAMPLES = 4  # configurations for figures, at each bin
LARGEST_LABEL = 1e18  # kT above the lowest; beyond, its square is more than the float32 of the networks holds


class PublishedRecipe:
    """State and steps of the recipe; `estimates` drives them.

    Parameters
    ----------
    problem, config, streams
        As for `cgbench.method.Method`.
    """

    def __init__(self, problem: Problem, config: PublishedConfig, streams: Streams) -> None:
        self.problem, self.config, self.streams = problem, config, streams
        self.cvs = problem.cvs
        self.target = ConditionalTarget(problem, problem.coordinate_sets[config.coordinates])
        self.coordinates = self.target.coordinates
        features = self._features(torch.zeros(1, len(self.cvs), dtype=torch.float64)).shape[1]
        generator = streams.torch("flow weights")
        if config.flow.gaussian:
            gaussian = ConditionalGaussian(self.target.size, features, config.flow.gaussian_hidden, generator)
            self.flow = conditional_flow(self.coordinates, [gaussian])
        else:
            self.flow = conditional_flow(
                self.coordinates,
                [],
                context_features=features,
                num_couplings=config.flow.num_couplings,
                hidden_features=config.flow.hidden_features,
                num_blocks=config.flow.num_blocks,
                num_bins=config.flow.num_bins,
                generator=generator,
                dtype=torch.float64,
            )
        self.optimiser = torch.optim.Adam(self.flow.parameters(), lr=0.0, fused=True)
        self.ensemble = NetworkEnsemble(
            config.ensemble.members, features, config.ensemble.hidden, streams.torch("ensemble")
        )
        empty = torch.zeros(0, len(self.cvs), dtype=torch.float64)
        self.older, self.newest, self.held_out, self.starts = empty, empty, empty, empty
        self.stage, self.iteration, self.epoch = "seed", 0, 0
        self.history: list[dict[str, Any]] = []
        self.snapshots = Snapshots(self.cvs)
        self.seed_points = empty.float()
        self.efficiency = torch.zeros(0)
        self.validation = math.nan
        self.losses = math.nan
        self.epoch_labels = (empty, empty[:, 0])
        self.status = "starting"
        self.progress: float | None = None

    # ---- the loop -------------------------------------------------------------------------------

    def estimates(self) -> Iterator[PMF]:
        """Yield free estimates while training, and the ensemble's PMF after each iteration."""
        if self.stage == "seed":
            self._seed()
            self.stage = "train"
        while self.stage != "done":
            epochs = self.config.by_energy.epochs_first if self.iteration == 0 else self.config.by_energy.epochs
            while self.epoch < epochs:
                self._train_epoch(epochs)
                self.epoch += 1
                if self.epoch % self.config.by_energy.epochs_per_estimate == 0 and self.epoch < epochs:
                    yield self._free_estimate()
            self._fit_ensemble()
            self.iteration += 1
            self.epoch = 0
            if not self._explore():
                self.stage = "done"
            yield self._ensemble_estimate()

    def _features(self, s: torch.Tensor) -> torch.Tensor:
        """Cosine and sine of periodic CVs; others standardised by their domain."""
        columns = []
        for axis, periodic in enumerate(self.cvs.periodic):
            low, high = self.cvs.lower[axis], self.cvs.upper[axis]
            column = s[:, axis]
            if periodic:
                angle = 2 * math.pi * (column - low) / (high - low)
                columns += [angle.cos(), angle.sin()]
            else:
                columns.append((column - 0.5 * (low + high)) / ((high - low) / math.sqrt(12.0)))
        return torch.stack(columns, dim=1)

    # ---- the start --------------------------------------------------------------------------------

    def _seed(self) -> None:
        config = self.config.seeding
        self.status = "starting trajectory"
        generator = self.streams.torch("seed dynamics")
        start = self.problem.initial_configuration()[None].double()
        masses = self.problem.masses
        sampler: Langevin | Metropolis
        if masses is None:
            energy = lambda x: self.problem.reduced_energy_and_gradient(x)[0]  # noqa: E731
            sampler = Metropolis(energy, start, config.step_size, generator)
        else:
            sampler = Langevin(
                self.problem.reduced_energy_and_gradient,
                masses,
                self.problem.temperature,
                time_step=config.time_step,
                friction=config.friction,
                positions=start,
                generator=generator,
            )
        frames = []
        with self.problem.phase("seed_md"):
            for _ in range(config.steps // config.stride):
                sampler.step(config.stride)
                lost = end_block(self.problem, sampler)
                frames.append(sampler.positions[~lost])
        if not any(map(len, frames)):
            raise ValueError("the starting trajectory has no frame of finite energy (lost_walker)")
        s, y, _ = self.coordinates.to_internal(torch.cat(frames))
        self.seed_points = s[:: -(-len(s) // 200)].float()  # for figures
        self._by_example(s, y)
        if self.config.grid is None:
            self._add_points(s)
        else:
            self._add_points(self._grid(self.config.grid))
        first = self.config.walk.start
        self.starts = s[:1] if first is None else torch.tensor([first], dtype=torch.float64)

    def _grid(self, points: int) -> torch.Tensor:
        axes = []
        for low, high in zip(self.cvs.lower, self.cvs.upper, strict=True):
            axes.append(low + (high - low) * (torch.arange(points, dtype=torch.float64) + 0.5) / points)
        return torch.cartesian_prod(*axes).reshape(-1, len(self.cvs))

    def _by_example(self, s: torch.Tensor, y: torch.Tensor) -> None:
        config = self.config.by_example
        generator = self.streams.torch("by example")
        features = self._features(s)
        for group in self.optimiser.param_groups:
            group["lr"] = config.learning_rate
        for epoch in range(config.epochs):
            self.status = f"by example, epoch {epoch + 1} of {config.epochs}"
            for rows in torch.randperm(len(s), generator=generator).split(config.batch):
                self.optimiser.zero_grad(set_to_none=True)
                loss = by_example_loss(self.flow, y[rows], features[rows])
                loss.backward()
                sound = math.isfinite(float(loss.detach()))
                sound_step(self.problem, self.optimiser, clip_norm=self.config.by_energy.clip, sound=sound)

    def _add_points(self, s: torch.Tensor) -> None:
        generator = self.streams.torch("held out")
        order = torch.randperm(len(s), generator=generator)
        held = round(self.config.walk.held_out * len(s))
        self.older = torch.cat([self.older, self.newest])
        self.newest = s[order[held:]]
        self.held_out = torch.cat([self.held_out, s[order[:held]]])

    # ---- by energy --------------------------------------------------------------------------------

    def _train_epoch(self, epochs: int) -> None:
        config = self.config.by_energy
        generator = self.streams.torch("by energy")
        older = min(len(self.older), round(self.config.walk.older_share * len(self.newest)))
        chosen = torch.randperm(len(self.older), generator=generator)[:older]
        s = torch.cat([self.newest, self.older[chosen]])
        s = s[torch.randperm(len(s), generator=generator)]
        warmup = config.warmup_first if self.iteration == 0 else config.warmup
        losses, points, labels = [], [], []
        batches = s.split(config.batch)
        with self.problem.phase("train"):
            for number, batch in enumerate(batches):
                done = self.epoch + number / len(batches)
                self._set_rate(done, warmup, epochs)
                clip = config.clip_warmup if self.epoch < warmup else config.clip
                repeated = batch.repeat_interleave(config.samples, 0)
                self.optimiser.zero_grad(set_to_none=True)
                loss, log_weights = reverse_kl_losses(
                    self.flow, self.target, repeated, self._features(repeated), generator
                )
                kept = loss[loss.isfinite()]
                if len(kept) > config.drop_highest:
                    kept = kept.topk(len(kept) - config.drop_highest, largest=False).values
                if len(kept):
                    kept.mean().backward()
                    losses.append(float(kept.detach().mean()))
                sound_step(self.problem, self.optimiser, clip_norm=clip, sound=len(kept) > 0)
                points.append(batch)
                labels.append(
                    mean_weight_labels(log_weights.reshape(len(batch), -1), self.config.ensemble.clip_largest)
                )
        self.epoch_labels = (torch.cat(points), torch.cat(labels))
        self.losses = float(np.mean(losses)) if losses else math.nan
        self._validate()
        self.progress = (self.epoch + 1) / epochs if self.config.grid is not None else None
        self.status = f"iteration {self.iteration + 1}, epoch {self.epoch + 1} of {epochs}, loss {self.losses:.2f}"

    def _set_rate(self, epoch: float, warmup: int, epochs: int) -> None:
        config = self.config.by_energy
        rate = config.learning_rate
        if epoch < warmup:
            rate *= (epoch + 1e-3) / warmup
        elif config.cosine:
            rate *= 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(epochs - warmup, 1)))
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    @torch.no_grad()
    def _validate(self) -> None:
        """Reverse KL on the held-out values of s, reported only."""
        config = self.config.by_energy
        generator = self.streams.torch("validation")
        losses = []
        with self.problem.phase("validate"):
            for batch in self.held_out.split(config.batch):
                repeated = batch.repeat_interleave(config.samples, 0)
                loss, _ = reverse_kl_losses(self.flow, self.target, repeated, self._features(repeated), generator)
                losses.append(loss[loss.isfinite()])
        self.validation = float(torch.cat(losses).median()) if losses else math.nan

    # ---- labels, ensemble, walk -------------------------------------------------------------------

    @torch.no_grad()
    def _fit_ensemble(self) -> None:
        config = self.config.ensemble
        s = torch.cat([self.older, self.newest, self.held_out])
        generator = self.streams.torch("label samples")
        labels, excess, weights = [], [], []
        with self.problem.phase("label"):
            for batch in s.split(64):
                repeated = batch.repeat_interleave(self.config.by_energy.samples, 0)
                _, log_weights = reverse_kl_losses(
                    self.flow, self.target, repeated, self._features(repeated), generator
                )
                of_point = log_weights.reshape(len(batch), -1)
                weights.append(log_weights)
                labels.append(mean_weight_labels(of_point, config.clip_largest))
                excess.append((of_point + mean_weight_labels(of_point)[:, None]).reshape(-1))
        label = torch.cat(labels)
        self.efficiency = efficiency_map(
            self.cvs, s.repeat_interleave(self.config.by_energy.samples, 0), torch.cat(excess)
        )
        usable = label.isfinite()
        if bool(usable.any()):
            usable &= label - label[usable].min() < LARGEST_LABEL
        self.problem.incident("unusable_label", (~usable).sum(), len(label))
        if not bool(usable.any()):
            raise ValueError(f"none of {len(label):,} labels is finite (unusable_label): there is nothing to fit")
        # of all samples together: of the few that one s has, one may well outweigh the rest. What is done about it is
        # the publication's: the largest weights of each s are cut (EnsembleConfig.clip_largest)
        largest = largest_share(torch.cat(weights))
        self.problem.incident("dominant_weight", int(largest > LARGEST_SHARE), 1)
        s, label = s[usable], label[usable] - label[usable].min()
        self.status = f"iteration {self.iteration + 1}, ensemble on {len(s):,} labels"
        with torch.enable_grad():
            spread = self.ensemble.fit_with_spread(
                self._features(s),
                label,
                self.problem,
                share=config.share,
                epochs=config.epochs,
                batch=config.batch,
                learning_rate=config.learning_rate,
            )
        self.history.append(
            {
                "iteration": self.iteration + 1,
                "evaluations": self.problem.evaluations,
                "labels": len(s),
                "unusable_labels": int((~usable).sum()),
                "largest_share": largest,
                "ensemble_has_spread": spread,
                "loss": self.losses,
                "validation_loss": self.validation,
            }
        )

    def _mean_and_std(self, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [self.ensemble.mean_and_std(self._features(part)) for part in s.split(10_000)]
        return torch.cat([mean for mean, _ in parts]), torch.cat([std for _, std in parts])

    def _explore(self) -> bool:
        """Walk, choose and broaden new points; False when nothing uncertain is within reach."""
        config = self.config.walk
        if self.config.grid is not None or self.iteration >= config.max_iterations:
            self._keep_stage(self.newest[:0])
            return False
        generator = self.streams.torch("walk")
        start = self.starts[torch.randint(len(self.starts), (config.walkers,), generator=generator)]
        wanted = config.wait_factor * config.new_points
        found = walk(
            self.cvs,
            self._mean_and_std,
            start,
            generator,
            step=config.step,
            threshold=config.threshold,
            max_steps=config.max_steps,
            min_steps=config.min_steps,
            wanted=wanted,
        )
        candidates = found.positions[found.stopped][:wanted]
        chosen = candidates[farthest_points(self.cvs, candidates, config.new_points)]
        self.history[-1] |= {"walk_steps": found.steps, "uncertain_walkers": int(found.stopped.sum())}
        self._keep_stage(chosen)
        if len(chosen) == 0:
            return False
        self.starts = chosen
        self._add_points(broaden(self.cvs, chosen, config.radius, config.broadened, generator))
        return True

    @torch.no_grad()
    def _keep_stage(self, points: torch.Tensor) -> None:
        configurations = None
        if len(self.cvs) == 1:  # of more, no figure shows them
            s = torch.from_numpy(self.cvs.grid()).repeat_interleave(FIGURE_SAMPLES, 0)
            y, _ = self.flow.sample_with_log_prob(self._features(s), self.streams.torch("figure samples"))
            configurations, _ = self.coordinates.to_cartesian(s, y)
        mean, std = self._mean_and_std(torch.from_numpy(self.cvs.grid()))
        self.snapshots.add(
            "iteration", self.problem.evaluations, mean, std, self.config.walk.threshold, points, configurations
        )

    # ---- estimates --------------------------------------------------------------------------------

    def _free_estimate(self) -> PMF:
        """Estimate from the weights of the last epoch's training samples."""
        model = FourierSurrogate(self.cvs, order=8, length_scale=0.5, amplitude=6.0)
        s, labels = self.epoch_labels
        usable = labels.isfinite()
        if not bool(usable.any()):
            raise ValueError(f"none of {len(labels):,} labels is finite (unusable_label): there is nothing to fit")
        values = labels[usable] - labels[usable].min()
        model.fit_values(s[usable], values.clamp(max=25.0), torch.full_like(values, 0.5))

        def mean(points: np.ndarray) -> np.ndarray:
            parts = [model.mean(part) for part in torch.from_numpy(points).split(10_000)]
            return torch.cat(parts).numpy()

        return PMF.from_function(self.cvs, mean, subdivisions=2)

    def _ensemble_estimate(self) -> PMF:
        nodes = torch.from_numpy(self.cvs.grid())
        std = self._mean_and_std(nodes)[1].numpy().reshape(self.cvs.bins)
        return PMF.from_function(
            self.cvs, lambda s: self._mean_and_std(torch.from_numpy(s))[0].numpy(), subdivisions=2, std=std
        )

    def diagnostics(self) -> dict[str, Any]:
        """Return the history, one entry per iteration, and warnings."""
        warnings = []
        without = [str(entry["iteration"]) for entry in self.history if not entry.get("ensemble_has_spread", True)]
        if without:
            warnings.append(
                f"the ensemble had no spread in iteration {', '.join(without)}, fitted twice: where it is uncertain is "
                "not known, and that no walker stopped does not mean that nothing is left to explore"
            )
        if self.history and self.history[-1].get("largest_share", 0.0) > LARGEST_SHARE:
            warnings.append(f"one weight of the last labels holds {self.history[-1]['largest_share']:.0%} of their sum")
        return {"iterations": list(self.history), "warnings": warnings}

    def extra_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the points of the last iteration, stages, and effective sample sizes of the last labels by place."""
        found: dict[str, NDArray[Any]] = {
            "new_points": self.newest.numpy(),
            "walk_starts": self.starts.numpy(),
            "seed_points": self.seed_points.numpy(),
        }
        if len(self.efficiency):
            found["efficiency"] = self.efficiency.numpy()
        return found | self.snapshots.arrays()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on."""
        return {
            "flow": dict(self.flow.state_dict()),
            "optimiser": self.optimiser.state_dict(),
            "ensemble": self.ensemble.state_dict(),
            "points": [self.older, self.newest, self.held_out, self.starts],
            "epoch_labels": list(self.epoch_labels),
            "stage": self.stage,
            "iteration": self.iteration,
            "epoch": self.epoch,
            "history": list(self.history),
            "losses": [self.losses, self.validation],
            "snapshots": self.snapshots.state_dict(),
            "figures": [self.seed_points, self.efficiency],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.flow.load_state_dict(state["flow"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.ensemble.load_state_dict(state["ensemble"])
        self.older, self.newest, self.held_out, self.starts = state["points"]
        s, labels = state["epoch_labels"]
        self.epoch_labels = (s, labels)
        self.stage, self.iteration, self.epoch = str(state["stage"]), int(state["iteration"]), int(state["epoch"])
        self.history = list(state["history"])
        self.losses, self.validation = (float(v) for v in state["losses"])
        self.snapshots.load_state_dict(state["snapshots"])
        self.seed_points, self.efficiency = state["figures"]
