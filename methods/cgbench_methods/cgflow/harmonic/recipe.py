"""The loop of our recipe: harmonic minima, rounds of training, rounds of sampling.

The docstring of `cgbench_methods.cgflow.harmonic` lists the steps with their equations. The stages of the loop have the
names "atlas" (step 1), "train" (steps 3 to 5), "label" (step 6) and "done" in records and checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from cgbench.contracts.maps import Estimate
from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench_methods.cgflow.common.recipe import Recipe
from cgbench_methods.cgflow.harmonic.atlas.minima import HarmonicMinima
from cgbench_methods.cgflow.harmonic.atlas.search import MinimaSearch
from cgbench_methods.cgflow.harmonic.atlas.wells import Features, Wells, WellTarget
from cgbench_methods.cgflow.harmonic.config import HarmonicConfig
from cgbench_methods.cgflow.harmonic.coverage import largest_weight_of_minima
from cgbench_methods.cgflow.harmonic.fit.posterior import estimate_of, expected_kld, fit_or_restore, model_grid
from cgbench_methods.cgflow.harmonic.fit.samples import WeightedSamples
from cgbench_methods.cgflow.harmonic.record import arrays_of, diagnostics_of
from cgbench_methods.cgflow.harmonic.rounds import RoundOfSamples, Rounds
from cgbench_methods.cgflow.harmonic.uncertain import uncertain_points
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate
from cgbench_methods.lib.flows.build import ConditionalFlow

__all__ = ["HarmonicRecipe"]

STATUS = {"train": "training", "label": "sampling"}


class HarmonicRecipe(Recipe):
    """State and steps of the recipe; `estimates` runs them.

    Parameters
    ----------
    problem, config, streams
        As for `cgbench.contracts.method.Method`.

    Attributes
    ----------
    minima
        The harmonic minima found so far.
    rounds
        The flow with its training and sampling.
    samples
        All weighted samples so far.
    surrogate
        The model of the PMF.
    unseen
        Largest log-weight of the minima that the check of coverage found; None before, and without free torsions.
    new_points
        Points where the model was uncertain after the last round ``[points, cvs]``.
    """

    uncounted_in_publication = frozenset({"seed_md", "validate"})  # weighted samples count: they train the flow too

    def __init__(self, problem: Problem, config: HarmonicConfig, streams: Streams) -> None:
        super().__init__(problem, config.coordinates, streams, stage="atlas", cvs=model_grid(problem.cvs))
        self.config = config
        self.search = MinimaSearch(problem, self.cvs, self.target, config, self.stages, streams)
        self.surrogate = FourierSurrogate(
            self.cvs, config.surrogate.order, config.surrogate.length_scales[0], config.surrogate.amplitudes[-1]
        )
        self.samples = WeightedSamples(self.cvs)
        self.rounds = Rounds(
            problem, self.cvs, self.coordinates, self.target, self.surrogate, config, streams, self.activity
        )
        self.whole_target = self.target
        self.unseen: float | None = None
        self.round = 0
        self.new_points = torch.zeros(0, len(self.cvs), dtype=torch.float64)

    @property
    def minima(self) -> HarmonicMinima:
        """The harmonic minima found so far."""
        return self.search.minima

    @property
    def flow(self) -> ConditionalFlow | None:
        """The flow; None until the minima are complete."""
        return self.rounds.flow

    @property
    def optimiser(self) -> torch.optim.Optimizer | None:
        """The flow's optimiser; None until the minima are complete."""
        return self.rounds.optimiser

    @property
    def basis(self) -> Features:
        """The flow's context as a function of the points."""
        return self.rounds.basis

    # ---- the loop -------------------------------------------------------------------------------

    def estimates(self) -> Iterator[PMF | Estimate]:
        """Yield the PMF after the search for minima, after each training round and after each sampling round."""
        if self.stage == "atlas":
            with self.problem.phase("warm_start"):
                for points in self.search.grow():
                    self.activity.status = f"harmonic minima at {points} points"
            self._use_wells()
            if self.rounds.shares is not None:
                self.rounds.shares.set_harmonic(self.minima, self.config.atlas, self.config.surrogate.order)
            self.rounds.build_flow(self.minima)
            self.surrogate.adopt_posterior(self.search.model, self.search.level)
            self.stage = "train"
            yield estimate_of(self.surrogate, self.samples, self.problem)
        while self.stage == "train":
            with self.problem.phase("train"):
                self._training_round()
            self._update_model()
            self.round += 1
            if self.round == self.config.training.rounds:
                self.stage, self.round = "label", 0
            yield estimate_of(self.surrogate, self.samples, self.problem)
        while self.stage == "label":
            if self.rounds.shares is not None and self.unseen is None:
                with self.problem.phase("validate"):
                    self.unseen = largest_weight_of_minima(self.rounds, self.whole_target, self.minima)
            if self._finished():
                self.stage = "done"
                break
            with self.problem.phase("label"):
                self._sampling_round()
            self._update_model()
            self.round += 1
            yield estimate_of(self.surrogate, self.samples, self.problem)

    def _update_model(self) -> None:
        """Fit the PMF, then look for points where it is uncertain."""
        with self.problem.phase("fit"):
            self._fit_surrogate()
        with self.problem.phase("explore"):
            self._explore()

    def _finished(self) -> bool:
        converged = len(self.new_points) == 0 and self.expected_kld() <= self.config.labels.target_kld
        return converged or self.round >= self.config.labels.max_rounds

    # ---- training and sampling --------------------------------------------------------------------

    def _use_wells(self) -> None:
        """Continue at points ``(s, k)`` if the search has found wells of free torsions."""
        if self.search.wells is not None:
            assert isinstance(self.search.target, WellTarget)
            self.target = self.search.target
            self.rounds.use_wells(self.search.wells, self.search.target)

    def _training_round(self) -> None:
        """Train the flow by energy for some steps, and keep the weighted samples."""
        found = self.rounds.train(self.round, self.new_points)
        if self.config.training.labels:
            self._add_samples(found)

    def _sampling_round(self) -> None:
        """Draw weighted samples from the trained flow."""
        self._add_samples(self.rounds.sample(self.new_points), new_group=self.round == 0)

    def _add_samples(self, found: RoundOfSamples, new_group: bool = True) -> None:
        """Add weighted samples, and count those that are skipped."""
        skipped = self.samples.add(found.s, found.log_weights, found.slopes, new_group, found.well)
        self.problem.report_anomaly("unusable_sample", skipped, len(found.s))

    def weighted_samples(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Draw s and a sample of the flow at each s; the weights are those of both draws, and none is truncated."""
        return None if self.flow is None else self.rounds.independent_samples(count, generator)

    # ---- fit and exploration ----------------------------------------------------------------------

    def _fit_surrogate(self) -> None:
        """Fit the model to all weighted samples, and add an entry to the history.

        The model remains as it was if no sample has a weight above zero, or if the fit fails.
        """
        if self.samples.weightless or not self._fitted():
            expected = self.stage == "train" and not self.config.training.labels
            self.history.append(
                {"evaluations": self.problem.evaluations, "stage": self.stage, "unfitted": not expected}
            )
            return
        if self.rounds.shares is not None:
            informative = self.samples.informative(self.surrogate, self.config.labels.truncation)
            self.rounds.shares.fit(self.samples.s, self.samples.well, informative)
        quality = self.samples.quality(self.surrogate, self.samples.last_group)
        # the fit spreads the excess of such a weight over the samples nearby (SamplingConfig.truncation)
        self._report_largest_share(quality["largest_share"])
        self.history.append(
            {
                "evaluations": self.problem.evaluations,
                "stage": self.stage,
                **quality,
                "expected_kld": self.expected_kld(),
                "misfit": self.samples.misfit(self.surrogate, self.config.labels.truncation)._asdict(),
                "length_scale": self.surrogate.length_scale,
                "amplitude": self.surrogate.amplitude,
                "dispersion": self.samples.variances.dispersion,
            }
        )
        efficiency = quality["effective_sample_size"]
        self.activity.status = f"{STATUS[self.stage]} round {self.round + 1}, effective sample size {efficiency:.0%}"

    def _fitted(self) -> bool:
        """Fit the model; tell whether the fit succeeded, and count a failure."""
        fitted = fit_or_restore(self.surrogate, self.samples, self.config.surrogate, self.config.labels.truncation)
        self.problem.report_anomaly("collapsed_ensemble", int(not fitted), 1)
        return fitted

    def _explore(self) -> None:
        """Walk on the model, and choose new points where it is uncertain."""
        config = self.config.surrogate
        generator = self.streams.torch("walk")
        start = self.new_points if len(self.new_points) else self.rounds.draw_s(config.walkers, self.new_points)
        self.new_points, stopped = uncertain_points(
            self.surrogate, start, config, self.config.labels.ceiling, generator
        )
        self.history[-1]["uncertain_walkers"] = stopped
        assert self.flow is not None
        self._keep_stage(
            self.stage, self.flow, self.rounds.features, self.surrogate.on_grid(), config.threshold, self.new_points
        )

    def expected_kld(self) -> float:
        """Return the forward KLD that the posterior of the PMF expects."""
        return expected_kld(self.surrogate, self.samples, self.problem)

    # ---- record and checkpoints -------------------------------------------------------------------

    def diagnostics(self) -> dict[str, Any]:
        """Return what `diagnostics_of` describes."""
        return diagnostics_of(self.search, self.rounds, self.samples, self.history, self.unseen)

    def extra_arrays(self) -> dict[str, NDArray[Any]]:
        """Return what `arrays_of` describes."""
        return arrays_of(self.search, self.rounds, self.samples, self.stages)

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue after a yield."""
        assert self.flow is not None and self.optimiser is not None
        return {
            **self._shared_state(),
            "round": self.round,
            "atlas": self.minima.state_dict(),
            "atlas_model": self.search.model.state_dict(),
            "surrogate": self.surrogate.state_dict(),
            "labels": self.samples.state_dict(),
            "new_points": self.new_points,
            "flow": dict(self.flow.state_dict()),
            "optimiser": self.optimiser.state_dict(),
            "wells": None if self.search.wells is None else vars(self.search.wells),
            "unseen": self.unseen,
            "shares": None if self.rounds.shares is None else self.rounds.shares.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._load_shared_state(state)
        self.round = int(state["round"])
        self.search.minima = HarmonicMinima(**state["atlas"])
        self.search.model.load_state_dict(state["atlas_model"])
        self.surrogate.load_state_dict(state["surrogate"])
        self.samples.load_state_dict(state["labels"])
        self.new_points = state["new_points"]
        if state.get("wells"):
            self.search.set_wells(Wells(**state["wells"]))
            self._use_wells()
            assert self.rounds.shares is not None
            self.rounds.shares.load_state_dict(state["shares"])
            self.unseen = state.get("unseen")
        self.rounds.build_flow(self.minima)
        assert self.flow is not None and self.optimiser is not None
        self.flow.load_state_dict(state["flow"])
        self.optimiser.load_state_dict(state["optimiser"])
