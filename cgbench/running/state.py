"""The parts of a run, and their conversion to a record and to a checkpoint."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import Estimate
from cgbench.contracts.method import Method
from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem
from cgbench.contracts.system import maps_of
from cgbench.counting.anomalies import Anomalies
from cgbench.counting.clock import PhaseClock
from cgbench.counting.ledger import Ledger
from cgbench.counting.streams import Streams
from cgbench.running import provenance
from cgbench.running.plan import Plan
from cgbench.running.plugins import construct
from cgbench.running.record import (
    AnomalyCount,
    ClaimedErrors,
    Evaluations,
    Record,
    StateSpace,
    Status,
    to_json,
    warnings_in,
)
from cgbench.running.run_folder import RunFolder
from cgbench.scoring.referee import METRICS_VERSION, Referee

__all__ = ["RunState"]

CLAIMED_BELOW = 8.0  # kT; the method's errors are summarised over bins below


class RunState:
    """The parts of a run and its results so far.

    Parameters
    ----------
    plan
        What to run.
    threads
        CPU threads, for the record.
    folder
        Folder of the run.

    Attributes
    ----------
    curve
        One row per estimate: evaluations, wall and CPU seconds, and all metrics.
    auxiliary
        One row per auxiliary estimate.
    estimate
        The latest estimate.
    density
        Score of the full density of a generative method, once the run has ended.
    """

    def __init__(self, plan: Plan, threads: int, folder: RunFolder) -> None:
        self.plan, self.threads, self.folder = plan, threads, folder
        self.system, self.config, self.budget = plan.system, plan.config, plan.budget
        self.clock = PhaseClock()
        self.ledger = Ledger(self.budget, on_phase=self.clock.switch)
        self.anomalies = Anomalies()
        self.problem = Problem(self.system, self.ledger, self.anomalies)
        self.streams = Streams(plan.seed)
        self.referee = Referee(self.system)
        self.method: Method = construct(
            lambda: plan.method_class(self.problem, self.config, self.streams),
            "method",
            plan.method_class.name,
            plan.method_class,
            type(plan.system),
        )
        self.curve: list[dict[str, Any]] = []
        self.auxiliary: list[dict[str, Any]] = []
        self.estimate: Estimate | None = None
        self.density: dict[str, Any] | None = None
        self._provenance = provenance.collect(self.system.device, threads)
        self._provenance["code"] = plan.code()
        self._provenance["method_version"] = self.method.version
        self._segments = [provenance.segment(self._provenance, 0)]

    @property
    def columns(self) -> list[str]:
        """Columns of the curve."""
        return ["evaluations", "wall_s", "cpu_s", *self.referee.metric_names]

    def identity(self) -> dict[str, Any]:
        """Return what must match for the run to be resumed."""
        return self.plan.identity()

    # ---- record -----------------------------------------------------------------------------------

    def record(self, status: Status, reason: str | None = None) -> Record:
        """Return the record of the run in its current state."""
        total, phases = self.ledger.total, dict(self.ledger.by_phase)
        uncounted = sum(phases.get(name, 0) for name in self.method.uncounted_in_publication)
        metrics = dict.fromkeys(self.referee.metric_names)
        if self.curve:
            metrics = {name: self.curve[-1].get(name) for name in self.referee.metric_names}
        return Record(
            **self.identity(),
            config=self.config.model_dump(mode="json"),
            device=self.system.device,
            threads=self.threads,
            budget=self.budget,
            status=status,
            reason=reason or self.referee.problem,
            evaluations=Evaluations(
                total=total,
                by_phase=phases,
                publication_convention=total - uncounted,
                with_gradient=self.ledger.with_gradient,
            ),
            metrics=metrics,
            metrics_version=METRICS_VERSION,
            anomalies={
                kind: AnomalyCount(count=count, occasions=occasions)
                for kind, (count, occasions) in self.anomalies.counts().items()
            },
            state_space=self._state_space(),
            density=self.density,
            claimed_errors=None if self.estimate is None else _claimed_errors(self.estimate),
            diagnostics=self._diagnostics(),
            seconds=self.clock.by_phase(),
            reference=self.referee.facts(),
            provenance=self._provenance | {"segments": self._segments},
        )

    def continue_provenance(self, before: Any) -> str:
        """Continue the segments of a checkpoint. Return what has changed since its last one in words; "" for nothing.

        Parameters
        ----------
        before
            The segments in the checkpoint; None in a checkpoint that has none, whose code is unknown.
        """
        segments = [dict(segment) for segment in before] if before else [provenance.segment({}, 0)]
        present = provenance.segment(self._provenance, self.ledger.total)
        changes = provenance.differences(segments[-1], present)
        self._segments = [*segments, present] if changes else segments
        return changes

    def _state_space(self) -> StateSpace | None:
        """Return the counts of samples outside the state space; None for systems without one."""
        return StateSpace(**self.problem.state_space.counts()) if "coordinates" in self.system.traits else None

    def _diagnostics(self) -> dict[str, Any]:
        """Return the method's diagnostics, and whether the result is reliable.

        If the method's diagnostics fail, a warning takes their place, and the run continues.
        """
        found = self._diagnostics_of_method()
        problem = self.problem.state_space.problem()
        if problem is None:
            return found
        return found | {"reliable": False, "warnings": [problem, *warnings_in(found)]}

    def _diagnostics_of_method(self) -> dict[str, Any]:
        try:
            found = self.method.diagnostics()
            to_json(found)
        except Exception as error:
            self.folder.log(traceback.format_exc())
            return {"warnings": [f"the method's diagnostics failed ({type(error).__name__}: {error})".splitlines()[0]]}
        return found

    # ---- checkpoint -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the content of a checkpoint. There must be an estimate."""
        assert self.estimate is not None
        first, *others = [_pmf_state(pmf) for pmf in self.estimate.pmfs]
        populations = self.estimate.populations
        return {
            "identity": self.identity(),
            "method_version": self.method.version,
            "segments": self._segments,
            "device": self.system.device,
            "ledger": self.ledger.state_dict(),
            "with_gradient": self.ledger.with_gradient,
            "seconds": self.clock.by_phase(),
            "curve": self.curve,
            "auxiliary": self.auxiliary,
            **first,
            "further_maps": others,
            "populations": None if populations is None else dict(populations),
            "scoring": self.referee.scoring(),
            "anomalies": self.anomalies.state_dict(),
            "state_space": self.problem.state_space.state_dict(),
            "method": self.method.state_dict(),
            "streams": self.streams.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.ledger.load_state_dict(state["ledger"], state.get("with_gradient"))  # older checkpoints do not have it
        self.clock.restore(state["seconds"])
        self.curve = list(state["curve"])
        self.auxiliary = list(state["auxiliary"])
        stored = zip(maps_of(self.system), [state, *state.get("further_maps", ())], strict=True)
        pmfs = tuple(_restored(one.cvs, found) for one, found in stored)
        self.estimate = Estimate(pmfs, state.get("populations"))
        self.anomalies.load_state_dict(state["anomalies"])
        self.problem.state_space.load_state_dict(state.get("state_space", {}))  # older checkpoints have none
        self.method.load_state_dict(state["method"])
        self.streams.load_state_dict(state["streams"])

    def score_again(self, scoring: Any) -> str:
        """Make the restored curves those of the present metrics and reference. Return what was changed, in words.

        The last estimate is scored again. Those before it are not stored: of another reference or version of the
        metrics their scores are removed; metrics that are new stay empty.

        Parameters
        ----------
        scoring
            What `Referee.scoring` returned when the curves were made; None in checkpoints of before, which are taken
            to be of the present reference.
        """
        assert self.estimate is not None
        now, known = self.referee.scoring(), {"evaluations", "wall_s", "cpu_s"}
        other = scoring is not None and dict(scoring) != now
        if not other and set(self.curve[-1]) - known == set(self.referee.metric_names):
            return ""
        kept = known if other else set(self.columns)
        self.curve = [{name: row.get(name) if name in kept else None for name in self.columns} for row in self.curve]
        self.curve[-1] |= self.referee.score(self.estimate)
        if not other:
            return "its metrics are others than those of the checkpoint: earlier estimates do not have the new ones"
        self.auxiliary = [row | {"forward_kld": None} for row in self.auxiliary]
        return "the reference or the metrics have changed since the checkpoint: earlier estimates have no score"


def _claimed_errors(estimate: Estimate) -> ClaimedErrors | None:
    """Return the method's own errors of the estimate; None if it claims none."""
    if any(pmf.free_energy_std is None for pmf in estimate.pmfs):
        return None
    lows = [pmf.free_energy < CLAIMED_BELOW for pmf in estimate.pmfs]
    stds = [np.asarray(pmf.free_energy_std)[low] for pmf, low in zip(estimate.pmfs, lows, strict=True)]
    weights = [pmf.probability[low] for pmf, low in zip(estimate.pmfs, lows, strict=True)]
    mean = np.average(np.concatenate(stds), weights=np.concatenate(weights))
    return ClaimedErrors(mean_kT=float(mean), largest_kT=float(max(std.max() for std in stds)), below_kT=CLAIMED_BELOW)


def _pmf_state(pmf: PMF) -> dict[str, Any]:
    std = pmf.free_energy_std
    return {
        "probability": torch.from_numpy(pmf.probability),
        "free_energy_std": None if std is None else torch.from_numpy(std),
    }


def _restored(cvs: CollectiveVariables, stored: Mapping[str, Any]) -> PMF:
    std = stored["free_energy_std"]
    return PMF.restored(cvs, stored["probability"].numpy(), None if std is None else std.numpy())
