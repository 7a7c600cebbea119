"""The loop of the published recipe: starting trajectory, then iterations of training, labels, ensemble and walk.

The docstring of `cgbench_methods.cgflow.published` lists the steps with their equations, and the differences from the
publication. The stages of the loop are "seed" (steps 1 and 2), "train" (steps 3 to 6) and "done".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench_methods.cgflow.common.design import regular_grid
from cgbench_methods.cgflow.common.diagnostics import published_warnings
from cgbench_methods.cgflow.common.exploration import broaden, farthest_points, walk
from cgbench_methods.cgflow.common.recipe import Recipe
from cgbench_methods.cgflow.common.stages import efficiency_map
from cgbench_methods.cgflow.published.config import PublishedConfig
from cgbench_methods.cgflow.published.ensemble import NetworkEnsemble
from cgbench_methods.cgflow.published.estimates import ensemble_estimate, free_estimate
from cgbench_methods.cgflow.published.flow import features_of, published_flow
from cgbench_methods.cgflow.published.labels import label_points, usable_labels
from cgbench_methods.cgflow.published.points import TrainingPoints
from cgbench_methods.cgflow.published.seeding import starting_trajectory
from cgbench_methods.cgflow.published.training import PublishedTraining
from cgbench_methods.lib.estimators.importance import largest_share

__all__ = ["PublishedRecipe"]

SEED_POINTS = 200  # largest number of points of the starting trajectory kept for figures
POINTS_AT_ONCE = 10_000


class PublishedRecipe(Recipe):
    """State and steps of the recipe; `estimates` runs them.

    Parameters
    ----------
    problem, config, streams
        As for `cgbench.contracts.method.Method`.

    Attributes
    ----------
    flow, optimiser, ensemble
        What is trained.
    points
        Training points, and those held out.
    starts
        Points where the next walk starts ``[points, cvs]``.
    epoch_labels
        Training points of the last epoch, and labels from its samples.
    losses, validation
        Mean training loss and median validation loss of the last epoch.
    """

    uncounted_in_publication = frozenset({"seed_md", "validate", "label"})  # the publication counts training only

    def __init__(self, problem: Problem, config: PublishedConfig, streams: Streams) -> None:
        super().__init__(problem, config.coordinates, streams, stage="seed")
        self.config = config
        empty = torch.zeros(0, len(self.cvs), dtype=torch.float64, device=self.device)
        features = self._features(empty).shape[1]
        flow = published_flow(self.coordinates, features, config.flow, streams.torch("flow weights"))
        self.flow = flow.to(self.device)
        self.training = PublishedTraining(problem, self.target, self.flow, self._features, config, streams)
        self.optimiser = self.training.optimiser
        self.ensemble = NetworkEnsemble(
            config.ensemble.members, features, config.ensemble.hidden, streams.torch("ensemble", self.device)
        )
        self.points = TrainingPoints(len(self.cvs), config.walk.held_out, config.walk.older_share, self.device)
        self.starts = empty
        self.iteration = self.epoch = 0
        self.seed_points = empty.float().cpu()
        self.efficiency = torch.zeros(0)
        self.losses = self.validation = math.nan
        self.epoch_labels = (empty, empty[:, 0])

    # ---- the loop -------------------------------------------------------------------------------

    def estimates(self) -> Iterator[PMF]:
        """Yield estimates from training samples during an iteration, and the ensemble's PMF after it."""
        if self.stage == "seed":
            self._seed()
            self.stage = "train"
        while self.stage != "done":
            epochs = self.config.by_energy.epochs_first if self.iteration == 0 else self.config.by_energy.epochs
            while self.epoch < epochs:
                self._train_epoch(epochs)
                self.epoch += 1
                if self.epoch % self.config.by_energy.epochs_per_estimate == 0 and self.epoch < epochs:
                    yield free_estimate(self.cvs, *self.epoch_labels)
            self._fit_ensemble()
            self.iteration += 1
            self.epoch = 0
            with self.problem.phase("explore"):
                explored = self._explore()
            if not explored:
                self.stage = "done"
            yield ensemble_estimate(self.cvs, self._mean_and_std)

    def _features(self, s: torch.Tensor) -> torch.Tensor:
        return features_of(self.cvs, s)

    # ---- training ---------------------------------------------------------------------------------

    def _seed(self) -> None:
        """Train by example on the starting trajectory; its s, or a grid's, are the first training points."""
        self.activity.status = "starting trajectory"
        with self.problem.phase("seed_md"):
            frames = starting_trajectory(
                self.problem, self.config.seeding, self.streams.torch("seed dynamics", self.device)
            )
        s, y, _ = self.coordinates.to_internal(frames)
        self.seed_points = s[:: -(-len(s) // SEED_POINTS)].float().cpu()
        epochs = self.config.by_example.epochs
        with self.problem.phase("by_example"):
            for epoch in range(epochs):
                self.activity.status = f"training by example, epoch {epoch + 1} of {epochs}"
                self.training.epoch_by_example(s, y)
        grid = self.config.grid
        self._add_points(s if grid is None else regular_grid(self.cvs, grid, [0.5] * len(self.cvs)).to(self.device))
        first = self.config.walk.start
        self.starts = s[:1] if first is None else torch.tensor([first], dtype=torch.float64, device=self.device)

    def _add_points(self, s: torch.Tensor) -> None:
        self.points.add(s, self.streams.torch("held out"))

    def _train_epoch(self, epochs: int) -> None:
        """Train by energy for one epoch of the iteration's `epochs`, then validate."""
        s = self.points.epoch(self.streams.torch("by energy", self.device))
        with self.problem.phase("train"):
            self.losses, self.epoch_labels = self.training.epoch_by_energy(s, self.epoch, self.iteration == 0)
        with self.problem.phase("validate"):
            self.validation = self.training.validation_loss(self.points.held_out)
        self.activity.progress = (self.epoch + 1) / epochs if self.config.grid is not None else None
        self.activity.status = (
            f"iteration {self.iteration + 1}, epoch {self.epoch + 1} of {epochs}, loss {self.losses:.2f}"
        )

    # ---- labels, ensemble, walk -------------------------------------------------------------------

    def _fit_ensemble(self) -> None:
        """Label all points with new samples of the flow, refit the ensemble, and add an entry to the history."""
        config = self.config.ensemble
        s = self.points.all()
        generator = self.streams.torch("label samples", self.device)
        with self.problem.phase("label"):
            found = label_points(self.training.draw_losses, s, config.clip_largest, generator)
        samples_of_s = s.repeat_interleave(self.config.by_energy.samples, 0)
        self.efficiency = efficiency_map(self.cvs, samples_of_s, found.excess)
        usable = usable_labels(found.labels, self.problem)
        # the share is that in all samples together, since one of the few weights of an s often exceeds the others' sum;
        # the publication's remedy is to cut the largest weights of each s (EnsembleConfig.clip_largest)
        largest = largest_share(found.log_weights)
        self._report_largest_share(largest)
        s, labels = s[usable], found.labels[usable] - found.labels[usable].min()
        self.activity.status = f"iteration {self.iteration + 1}, fitting the ensemble to {len(s):,} labels"
        with self.problem.phase("fit"):
            spread = self.ensemble.fit_with_spread(
                self._features(s),
                labels,
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
        """Return the ensemble's PMF and its standard deviation at points ``[batch, cvs]``, each ``[batch]``."""
        parts = [self.ensemble.mean_and_std(self._features(part)) for part in s.to(self.device).split(POINTS_AT_ONCE)]
        return torch.cat([mean for mean, _ in parts]), torch.cat([std for _, std in parts])

    def _explore(self) -> bool:
        """Walk, and add broadened points where the ensemble is uncertain; return False to end the run."""
        config = self.config.walk
        if self.config.grid is not None or self.iteration >= config.max_iterations:
            self._keep_stage_of(self.points.newest[:0])
            return False
        generator = self.streams.torch("walk", self.device)
        drawn = torch.randint(len(self.starts), (config.walkers,), generator=generator, device=self.device)
        wanted = config.wait_factor * config.new_points
        outcome = walk(
            self.cvs,
            self._mean_and_std,
            self.starts[drawn],
            generator,
            step=config.step,
            threshold=config.threshold,
            max_steps=config.max_steps,
            min_steps=config.min_steps,
            wanted=wanted,
        )
        candidates = outcome.positions[outcome.stopped][:wanted]
        chosen = candidates[farthest_points(self.cvs, candidates, config.new_points)]
        self.history[-1] |= {"walk_steps": outcome.steps, "uncertain_walkers": int(outcome.stopped.sum())}
        self._keep_stage_of(chosen)
        if len(chosen) == 0:
            return False
        self.starts = chosen
        self._add_points(broaden(self.cvs, chosen, config.radius, config.broadened, generator))
        return True

    def _keep_stage_of(self, points: torch.Tensor) -> None:
        """Keep the ensemble's PMF and the points chosen from it for figures."""
        mean_and_std = self._mean_and_std(torch.from_numpy(self.cvs.grid()))
        self._keep_stage("iteration", self.flow, self._features, mean_and_std, self.config.walk.threshold, points)

    # ---- record and checkpoints -------------------------------------------------------------------

    def diagnostics(self) -> dict[str, Any]:
        """Return the history, with one entry per iteration, and warnings."""
        warnings = published_warnings(self.history)
        return {"iterations": list(self.history), "reliable": not warnings, "warnings": warnings}

    def extra_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the points of trajectory and last iteration, the stages, and a map of the effective sample size.

        ``efficiency`` is that of the samples behind the last labels.
        """
        arrays: dict[str, NDArray[Any]] = {
            "new_points": self.points.newest.cpu().numpy(),
            "walk_starts": self.starts.cpu().numpy(),
            "seed_points": self.seed_points.numpy(),
        }
        if len(self.efficiency):
            arrays["efficiency"] = self.efficiency.numpy()
        return arrays | self.stages.arrays()

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue after a yield."""
        return {
            **self._shared_state(),
            "flow": dict(self.flow.state_dict()),
            "optimiser": self.optimiser.state_dict(),
            "ensemble": self.ensemble.state_dict(),
            "points": [*self.points.state(), self.starts],
            "epoch_labels": list(self.epoch_labels),
            "iteration": self.iteration,
            "epoch": self.epoch,
            "losses": [self.losses, self.validation],
            "figures": [self.seed_points, self.efficiency],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._load_shared_state(state)
        self.flow.load_state_dict(state["flow"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.ensemble.load_state_dict(state["ensemble"])
        *points, starts = state["points"]
        self.points.restore(points)
        self.starts = starts.to(self.device)
        s, labels = state["epoch_labels"]
        self.epoch_labels = (s.to(self.device), labels.to(self.device))
        self.iteration, self.epoch = int(state["iteration"]), int(state["epoch"])
        self.losses, self.validation = (float(v) for v in state["losses"])
        self.seed_points, self.efficiency = state["figures"]
