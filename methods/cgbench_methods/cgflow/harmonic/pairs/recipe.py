"""The loop of our recipe with more than three collective variables.

The stages have the names of `cgbench_methods.cgflow.harmonic.recipe`: "atlas", "train", "label" and "done".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.coordinates import free_torsions
from cgbench.contracts.maps import Estimate
from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem
from cgbench.counting.streams import Streams
from cgbench.errors import UserError
from cgbench_methods.cgflow.common.recipe import Recipe
from cgbench_methods.cgflow.harmonic.atlas.minima import HarmonicMinima
from cgbench_methods.cgflow.harmonic.config import HarmonicConfig
from cgbench_methods.cgflow.harmonic.pairs.assisted import AssistedDynamics, Visited
from cgbench_methods.cgflow.harmonic.pairs.learning import learn, truncated
from cgbench_methods.cgflow.harmonic.pairs.model import PairModel, PairPrior
from cgbench_methods.cgflow.harmonic.pairs.rounds import PairRounds, Sampled
from cgbench_methods.cgflow.harmonic.pairs.samples import JointSamples, quality
from cgbench_methods.cgflow.harmonic.pairs.search import PairSearch
from cgbench_methods.cgflow.harmonic.pairs.verdict import warnings_of
from cgbench_methods.lib.estimators.importance import effective_sample_size

__all__ = ["PairRecipe"]

STATUS = {"train": "training", "label": "sampling"}
EQUILIBRATION = 1  # sampling rounds that are forgotten as soon as there is another


class PairRecipe(Recipe):
    """State and steps of the recipe; `estimates` runs them.

    Parameters
    ----------
    problem, config, streams
        As for `cgbench.contracts.method.Method`.

    Attributes
    ----------
    search
        The harmonic minima found so far, with their model.
    model
        The model of the PMF.
    rounds
        The flow and the chains.
    dynamics
        The walkers of the sampling rounds.
    samples
        All weighted samples so far; in stage "label" the positions of the walkers, with equal weights.

    Raises
    ------
    UserError
        If the points are to be on a grid, or if the fine-grained coordinates have free torsions.
    """

    uncounted_in_publication = frozenset({"seed_md", "validate"})

    def __init__(self, problem: Problem, config: HarmonicConfig, streams: Streams) -> None:
        if config.grid_points is not None:
            raise UserError(
                f"a regular grid over {len(problem.cvs)} collective variables is too large: use cgflow_al, which "
                "explores them, or a system with at most three"
            )
        super().__init__(problem, config.coordinates, streams, stage="atlas")
        free = [self.coordinates.names[position] for position in free_torsions(self.coordinates)]
        if free:
            raise UserError(
                f"the harmonic recipe with {len(problem.cvs)} collective variables takes no free torsions, and "
                f"{', '.join(free)} turns freely: make it a collective variable, or use md"
            )
        self.config, pairs = config, config.pairs
        self.search = PairSearch(problem, self.cvs, self.target, config, streams)
        self.model = PairModel(self.cvs, pairs.order, PairPrior(pairs.length_scale, pairs.correction, pairs.correction))
        self.rounds = PairRounds(problem, self.coordinates, self.target, self.model, config, streams, self.activity)
        self.dynamics = AssistedDynamics(
            problem, self.coordinates, self.rounds, pairs, config.labels.truncation, streams
        )
        self.samples = JointSamples(len(self.cvs), pairs.groups)
        self.facts: dict[str, Any] = {}
        self.round = 0

    # ---- the loop ---------------------------------------------------------------------------------

    def estimates(self) -> Iterator[PMF | Estimate]:
        """Yield the PMFs after the search for minima, after each training round and after each sampling round."""
        if self.stage == "atlas":
            with self.problem.phase("warm_start"):
                for points in self.search.grow():
                    self.activity.status = f"harmonic minima at {points} points"
            self.rounds.build_flow(self.search.minima)
            self.model.adopt(self.search.model)
            self.rounds.start(self.search.points, self.search.free_energies())
            self.stage = "train"
            yield self._estimate()
        while self.stage == "train":
            with self.problem.phase("train"):
                found = self.rounds.train(self.round)
            self._add(found)
            self._learn(found)
            self.round += 1
            if self.round == self.config.training.rounds:
                self.stage, self.round = "label", 0
            yield self._estimate()
        while self.stage == "label":
            if self._finished():
                self.stage = "done"
                break
            with self.problem.phase("label"):
                if self.dynamics.dynamics is None:
                    self.dynamics.start()
                visited = self.dynamics.sample()
            self._add_visited(visited)
            self.round += 1
            yield self._estimate()

    def _finished(self) -> bool:
        expected = self.facts.get("expected_kld", float("inf"))
        produced = self.round - EQUILIBRATION
        limit = self.config.labels
        return produced > 0 and (expected <= limit.target_kld or produced >= limit.max_rounds)

    def _add(self, found: Sampled) -> None:
        """Add the weighted samples of a training round."""
        cut, _ = truncated(found.log_weights, self.model.mean(found.s), self.config.labels.truncation)
        if self.config.training.labels:
            self.samples.add(found.s, cut - found.log_density, found.group, new_set=True)
        self._note(found)
        self._report_largest_share(self.history[-1]["largest_share"])

    def _add_visited(self, visited: Visited) -> None:
        """Add positions of the walkers; those of the equilibration replace the samples of the training, for a while."""
        if self.round <= EQUILIBRATION:
            self.samples.clear()
        weights = torch.zeros(len(visited.s), dtype=torch.float64)
        self.samples.add(visited.s, weights, visited.group, new_set=self.samples.sets == 0)
        self._note(visited.proposals)
        self.history[-1] |= {
            "accepted": visited.accepted,
            "moves_per_walker": float(self.dynamics.moves.double().mean()),
        }
        if self.round < EQUILIBRATION:
            self.dynamics.forget_moves()

    def _note(self, found: Sampled) -> None:
        """Add the quality of a round's weighted samples to the history, and count those that are skipped."""
        mean = self.model.mean(found.s)
        cut, share = truncated(found.log_weights, mean, self.config.labels.truncation)
        skipped = int((found.log_weights.isnan() | found.log_weights.isposinf()).sum())
        self.problem.report_anomaly("unusable_sample", skipped, len(found.s))
        self.history.append(
            {
                "evaluations": self.problem.evaluations,
                "stage": self.stage,
                **quality(found.log_weights + mean),
                "truncated_share": share,
                "joint_effective_sample_size": float(effective_sample_size(cut - found.log_density)),
            }
        )
        efficiency = self.history[-1]["joint_effective_sample_size"]
        self.activity.status = f"{STATUS[self.stage]} round {self.round + 1}, effective sample size {efficiency:.1%}"

    def _learn(self, found: Sampled) -> None:
        """Let the model learn from a training round, and the chains follow it; an unsuccessful fit changes nothing."""
        entry = self.history[-1]
        with self.problem.phase("fit"):
            usable = ~(found.log_weights.isnan() | found.log_weights.isposinf())
            rows = usable.nonzero().squeeze(1)
            order = torch.randperm(len(rows), generator=self.streams.torch("learned samples"))
            rows = rows[order[: self.config.pairs.learned]]
            if not bool(found.log_weights[rows].isfinite().any()):
                entry["unfitted"] = True
                return
            before = self.model.state_dict()
            slopes = None if found.slopes is None else found.slopes[rows]
            try:
                learn(self.model, found.s[rows], found.log_weights[rows], slopes, self.config.labels.truncation)
                fitted = bool(self.model.coefficients.isfinite().all())
            except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # torch's stubs lack it
                fitted = False
            if not fitted:
                self.model.load_state_dict(before)
            self.problem.report_anomaly("collapsed_ensemble", int(not fitted), 1)
        with self.problem.phase("explore"):
            self.rounds.settle()
            std = self.model.std(self.rounds.walkers)
        prior = self.model.prior
        entry |= {
            "unfitted": not fitted,
            "length_scale": prior.length_scale,
            "single": prior.single,
            "pair": prior.pair,
            "model_std": float(std.mean()),
            "uncertain_share": float((std > self.config.atlas.threshold).double().mean()),
        }

    def _estimate(self) -> PMF | Estimate:
        """Return the PMFs and populations from all weighted samples; without any, from the model."""
        with self.problem.phase("fit"):
            models = self.rounds.maps_of_model()
            if self.samples.weightless:
                return self._of_model(models)
            estimate, self.facts = self.samples.estimate(self.problem, models, self.config.pairs.fit_orders)
        if "expected_kld" in self.facts:
            self.history[-1]["expected_kld"] = self.facts["expected_kld"]
        return estimate

    def _of_model(self, models: list[NDArray[np.float64]]) -> PMF | Estimate:
        """Return the maps of the model, without errors, and the populations of the chains."""
        pmfs = tuple(PMF(one.cvs, p / p.sum()) for one, p in zip(self.problem.maps, models, strict=True))
        states = self.problem.states
        if states is None:
            return pmfs[0] if len(pmfs) == 1 else Estimate(pmfs)
        s, _ = self.rounds.draw_s(self.config.pairs.marginal_draws)
        weights = torch.softmax(self.rounds.energy(s) - self.model.mean(s), 0)
        return Estimate(pmfs, dict(zip(states.names, states.counts(s, weights).tolist(), strict=True)))

    def weighted_samples(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Draw s by chains and a sample of the flow at each; the weights are those of both draws, not truncated."""
        return None if self.rounds.flow is None else self.rounds.independent_samples(count, generator)

    # ---- record and checkpoints -------------------------------------------------------------------

    def diagnostics(self) -> dict[str, Any]:
        """Return numbers of minima and samples, the history of all rounds, facts of the maps' fits, and the verdict."""
        moves = self.dynamics.moves.double()
        warnings = warnings_of(self.history, self.facts, moves if self.stage in ("label", "done") else None)
        return {
            "atlas_points": len(self.search.points),
            "labels": len(self.samples),
            "rounds": list(self.history),
            "moves_per_walker": float(moves.mean()),
            "walkers_without_a_move": float((moves == 0).double().mean()),
            **self.facts,
            "warnings": warnings,
            "reliable": not warnings,
            **({"reason": warnings[0]} if warnings else {}),
        }

    def extra_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the reference points with their harmonic PMF."""
        free_energy = self.search.free_energies()
        if not len(free_energy):
            return {}
        return {
            "atlas_points": self.search.points.numpy(),
            "atlas_free_energy": (free_energy - free_energy.min()).numpy(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue after a yield."""
        return {
            **self._shared_state(),
            "round": self.round,
            "atlas": self.search.minima.state_dict(),
            "model": self.model.state_dict(),
            "labels": self.samples.state_dict(),
            "rounds": self.rounds.state_dict(),
            "dynamics": self.dynamics.state_dict(),
            "facts": dict(self.facts),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._load_shared_state(state)
        self.round = int(state["round"])
        self.search.minima = HarmonicMinima(**state["atlas"])
        self.model.load_state_dict(state["model"])
        self.samples.load_state_dict(state["labels"])
        self.rounds.build_flow(self.search.minima)
        self.rounds.load_state_dict(state["rounds"])
        self.dynamics.load_state_dict(state["dynamics"])
        self.facts = dict(state["facts"])
