"""The loop of our recipe: harmonic minima, rounds of training, rounds of sampling.

The docstring of `cgbench_methods.cgflow.harmonic` lists the steps with their equations. The stages of the loop have the
names "atlas" (step 1), "train" (steps 3 to 5), "label" (step 6) and "done" in records and checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from cgbench.contracts.maps import Estimate
from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench_methods.cgflow.common.design import draw_around, draw_in_cells, draw_where_low, low_density
from cgbench_methods.cgflow.common.diagnostics import harmonic_warnings
from cgbench_methods.cgflow.common.exploration import farthest_points, walk
from cgbench_methods.cgflow.common.recipe import Recipe
from cgbench_methods.cgflow.common.stages import efficiency_map
from cgbench_methods.cgflow.common.training import path_gradient_step, plain_gradient_step, set_learning_rate
from cgbench_methods.cgflow.harmonic.config import HarmonicConfig, more_for
from cgbench_methods.cgflow.harmonic.coverage import largest_weight_of_minima
from cgbench_methods.cgflow.harmonic.flow import draw_weighted_samples, flow_on_minima
from cgbench_methods.cgflow.harmonic.minima import HarmonicMinima
from cgbench_methods.cgflow.harmonic.posterior import estimate_of, expected_kld, fit_or_restore, model_grid
from cgbench_methods.cgflow.harmonic.samples import WeightedSamples
from cgbench_methods.cgflow.harmonic.search import MinimaSearch
from cgbench_methods.cgflow.harmonic.shares import WellShares
from cgbench_methods.cgflow.harmonic.wells import WellFeatures, Wells
from cgbench_methods.lib.estimators.fourier import FourierBasis
from cgbench_methods.lib.estimators.importance import effective_sample_size
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate
from cgbench_methods.lib.flows.build import ConditionalFlow
from cgbench_methods.lib.flows.steps import sound_step

__all__ = ["HarmonicRecipe"]

SOFTNESS, UNIFORM_SHARE = 3.0, 0.05  # of the values of s in `weighted_samples`; rare basins get many samples
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
    flow, optimiser
        None until the minima are complete.
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
        self.basis: FourierBasis | WellFeatures = FourierBasis(self.cvs, config.flow.feature_order)
        self.search = MinimaSearch(problem, self.cvs, self.target, config, self.stages, streams)
        self.shares: WellShares | None = None
        self.surrogate = FourierSurrogate(
            self.cvs, config.surrogate.order, config.surrogate.length_scales[0], config.surrogate.amplitudes[-1]
        )
        self.samples = WeightedSamples(self.cvs)
        self.flow: ConditionalFlow | None = None
        self.optimiser: torch.optim.Optimizer | None = None
        self.whole_target = self.target
        self.unseen: float | None = None
        self.round = 0
        self.new_points = torch.zeros(0, len(self.cvs), dtype=torch.float64)

    @property
    def minima(self) -> HarmonicMinima:
        """The harmonic minima found so far."""
        return self.search.minima

    # ---- the loop -------------------------------------------------------------------------------

    def estimates(self) -> Iterator[PMF | Estimate]:
        """Yield the PMF after the search for minima, after each training round and after each sampling round."""
        if self.stage == "atlas":
            with self.problem.phase("warm_start"):
                for points in self.search.grow():
                    self.activity.status = f"harmonic minima at {points} points"
            self._use_wells()
            if self.shares is not None:
                self.shares.set_harmonic(self.minima, self.config.atlas, self.config.surrogate.order)
            self._build_flow()
            self.surrogate.adopt_posterior(self.search.model)
            self.stage = "train"
            yield estimate_of(self.surrogate, self.problem)
        while self.stage == "train":
            with self.problem.phase("train"):
                self._training_round()
            self._update_model()
            self.round += 1
            if self.round == self.config.training.rounds:
                self.stage, self.round = "label", 0
            yield estimate_of(self.surrogate, self.problem)
        while self.stage == "label":
            if self.shares is not None and self.unseen is None:
                with self.problem.phase("validate"):
                    self._check_coverage()
            if self._finished():
                self.stage = "done"
                break
            with self.problem.phase("label"):
                self._sampling_round()
            self._update_model()
            self.round += 1
            yield estimate_of(self.surrogate, self.problem)

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
        wells = self.search.wells
        if wells is not None:
            self.target = self.search.target
            self.basis = WellFeatures(FourierBasis(self.cvs, self.config.flow.feature_order), len(wells))
            self.shares = WellShares(self.cvs, len(wells), self.config.wells)

    def _build_flow(self) -> None:
        self.flow, self.optimiser = flow_on_minima(
            self.minima,
            self.coordinates,
            self.basis,
            self.config,
            self.streams.torch("flow weights"),
            self.device,
            self.search.wells,
        )

    def _draw_s(self, count: int) -> torch.Tensor:
        """Draw s where the PMF is low, and a share of them around the uncertain points."""
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

    def _draw_points(self, count: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Draw s, and with wells one of them for each s; return the points and ``ln q(k|s)``."""
        s = self._draw_s(count)
        return (s, None) if self.shares is None else self.shares.draw(s, self.streams.torch("wells drawn"))

    def _steps_per_round(self) -> int:
        """Return the number of training steps in a round: it grows with the number of wells, and of CVs above two."""
        steps, wells = self.config.training.steps_per_round * more_for(len(self.cvs)), self.config.wells
        if self.search.wells is None:
            return steps
        growth: float = len(self.search.wells) ** wells.growth
        return round(steps * min(growth, wells.largest_growth))

    def _training_round(self) -> None:
        """Train the flow by energy for some steps, and keep the weighted samples."""
        config = self.config.training
        assert self.flow is not None and self.optimiser is not None
        steps = self._steps_per_round()
        total = config.rounds * steps
        generator = self.streams.torch("training samples", self.device)
        take_step = path_gradient_step if config.path_gradients else plain_gradient_step
        s_all, log_share = self._draw_points(steps * config.batch)
        log_weights, slopes = [], []
        for step in range(steps):
            s = s_all[step * config.batch : (step + 1) * config.batch].to(self.device)
            done = (self.round * steps + step) / total
            decay = 0.5 * (1 + math.cos(math.pi * done))
            rates = (config.gaussian_learning_rate * decay, config.learning_rate * decay)
            set_learning_rate(self.optimiser, rates[: len(self.optimiser.param_groups)])
            self.optimiser.zero_grad(set_to_none=True)
            of_batch, slopes_of_batch = take_step(
                self.flow, self.target, s, self.basis, generator, clip_norm=config.clip_norm
            )
            log_weights.append(of_batch.cpu())
            slopes.append(slopes_of_batch.cpu())
            sound_step(self.problem, self.optimiser)
            self.activity.progress = done
        if config.labels:
            known = torch.cat(slopes) if self.config.labels.mean_force else None
            self._add_samples(s_all, log_share, torch.cat(log_weights), known)

    def _sampling_round(self) -> None:
        """Draw weighted samples from the trained flow."""
        assert self.flow is not None
        self.activity.progress = None  # the number of rounds is not known
        config = self.config.labels
        s, log_share = self._draw_points(config.batch * more_for(len(self.cvs)))
        generator = self.streams.torch("label samples", self.device)
        log_weights, slopes = draw_weighted_samples(
            self.flow, self.target, s.to(self.device), self.basis, generator, mean_force=config.mean_force
        )
        slopes = None if slopes is None else slopes.cpu()
        self._add_samples(s, log_share, log_weights.cpu(), slopes, new_group=self.round == 0)

    def _add_samples(
        self,
        points: torch.Tensor,
        log_share: torch.Tensor | None,
        log_weights: torch.Tensor,
        slopes: torch.Tensor | None,
        new_group: bool = True,
    ) -> None:
        """Add weighted samples at points.

        The shares of the wells divide the weights, but not their slopes: ``sum_k q(k|s) E[w_k] = sum_k E[W_k]`` with
        ``W_k = q(k|s) w_k``, whose derivative does not contain q(k|s).
        """
        s, well = points, None
        if log_share is not None:
            s, well = points[:, :-1], points[:, -1].long()
            log_weights = log_weights - log_share
            slopes = None if slopes is None else slopes[:, :-1]
        skipped = self.samples.add(s, log_weights, slopes, new_group, well)
        self.problem.report_anomaly("unusable_sample", skipped, len(s))

    def _check_coverage(self) -> None:
        """Search for minima that the trained flow does not generate."""
        wells, count = self.search.wells, self.config.wells.checks
        assert self.flow is not None and self.shares is not None and wells is not None
        assert isinstance(self.basis, WellFeatures)
        generator = self.streams.torch("coverage")
        p = torch.softmax(-self.surrogate.on_grid()[0], dim=0)
        cells = torch.multinomial(p, count, generator=generator)
        self.unseen = largest_weight_of_minima(
            self.whole_target,
            self.flow,
            self.basis,
            self.shares,
            wells,
            self.surrogate,
            self.minima,
            torch.from_numpy(self.cvs.grid())[cells],
            self.config,
            generator,
        )

    def weighted_samples(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Draw s and a sample of the flow at each s; the weights are those of both draws, and none is truncated.

        s comes from ``exp(-A / softness)``, with A the present model of the PMF, and a uniform share over the domain.
        """
        if self.flow is None:
            return None
        density = low_density(
            self.surrogate.on_grid()[0], softness=SOFTNESS, ceiling=torch.inf, uniform_share=UNIFORM_SHARE
        )
        s, cells = draw_in_cells(self.cvs, density, count, generator)
        points, log_share = (s, torch.zeros(count)) if self.shares is None else self.shares.draw(s, generator)
        own = generator if self.device == "cpu" else torch.Generator(self.device).manual_seed(generator.initial_seed())
        log_weights, _ = draw_weighted_samples(
            self.flow, self.target, points.to(self.device), self.basis, own, mean_force=False
        )
        return s, log_weights.cpu() - log_share - density[cells].log()

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
        if self.shares is not None:
            informative = self.samples.informative(self.surrogate, self.config.labels.truncation)
            self.shares.fit(self.samples.s, self.samples.well, informative)
        quality = self.samples.quality(self.surrogate, self.samples.last_group)
        # the fit cuts such a weight at a multiple of the model (SamplingConfig.truncation)
        self._report_largest_share(quality["largest_share"])
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
        start = self._draw_s(config.walkers) if len(self.new_points) == 0 else self.new_points
        start = start[torch.randint(len(start), (config.walkers,), generator=generator)]
        outcome = walk(
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
        self.new_points = candidates[farthest_points(self.cvs, candidates, config.new_points)]
        self.history[-1]["uncertain_walkers"] = int(outcome.stopped.sum())
        assert self.flow is not None
        self._keep_stage(
            self.stage, self.flow, self._features, self.surrogate.on_grid(), config.threshold, self.new_points
        )

    def _features(self, s: torch.Tensor) -> torch.Tensor:
        """Return the flow's context at s, with wells in one of them at random ``[batch, features]``."""
        if self.shares is None:
            return self.basis(s)
        return self.basis(self.shares.draw(s, self.streams.torch("wells shown"))[0])

    def expected_kld(self) -> float:
        """Return the forward KLD that the posterior of the PMF expects."""
        return expected_kld(self.surrogate, self.problem)

    # ---- record and checkpoints -------------------------------------------------------------------

    def diagnostics(self) -> dict[str, Any]:
        """Return the numbers of minima and samples, the history of all rounds, the wells, warnings, and the verdict.

        The result is ``reliable`` if there is no warning; otherwise ``reason`` is the first.
        """
        of_wells, sizes = self._wells()
        late = {} if self.samples.weightless else self.samples.quality(self.surrogate, self.samples.late)
        warnings = harmonic_warnings(self.history, late, sizes, self.unseen)
        return {
            "atlas_points": len(self.search.points),
            "labels": len(self.samples),
            "rounds": list(self.history),
            **of_wells,
            "late": late,
            "warnings": warnings,
            "reliable": not warnings,
            **({"reason": warnings[0]} if warnings else {}),
        }

    def _wells(self) -> tuple[dict[str, Any], list[tuple[float, float]]]:
        """Describe the wells for the record; return also the population and effective samples of each."""
        wells = self.search.wells
        if wells is None or self.shares is None:
            return {}, []
        populations = self.shares.populations(self.surrogate.on_grid()[0]).tolist()
        late = self.samples.late
        excess = (self.samples.log_weights + self.surrogate.mean(self.samples.s))[late]
        own = [excess[self.samples.well[late] == number] for number in range(len(wells))]
        sizes = [len(e) * float(effective_sample_size(e)) for e in own]
        described = {
            "free_torsions": [self.coordinates.names[position] for position in wells.positions],
            "wells": [[round(angle) for angle in centre] for centre in wells.centres.rad2deg().tolist()],
            "well_populations": populations,
            "well_effective_samples": sizes,
            "largest_log_weight_of_minima": self.unseen,
        }
        return described, list(zip(populations, sizes, strict=True))

    def extra_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the reference points with their harmonic PMF, the stages, and a map of the effective sample size.

        ``efficiency`` is that of the last quarter of the samples.
        """
        free_energy = self.search.free_energies()
        arrays: dict[str, NDArray[Any]] = {
            "atlas_points": self.search.points.numpy(),
            "atlas_free_energy": (free_energy - free_energy.min()).numpy(),
        }
        if len(self.problem.cvs) > 2:
            return arrays  # no figure shows more CVs
        if len(self.samples):
            late = self.samples.late
            s = self.samples.s[late]
            excess = self.samples.log_weights[late] + self.surrogate.mean(s)
            arrays["efficiency"] = efficiency_map(self.cvs, s, excess).numpy()
        return arrays | self.stages.arrays()

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
            "shares": None if self.shares is None else self.shares.state_dict(),
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
            assert self.shares is not None
            self.shares.load_state_dict(state["shares"])
            self.unseen = state.get("unseen")
        self._build_flow()
        assert self.flow is not None and self.optimiser is not None
        self.flow.load_state_dict(state["flow"])
        self.optimiser.load_state_dict(state["optimiser"])
