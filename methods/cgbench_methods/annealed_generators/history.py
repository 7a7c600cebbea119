"""The history of a run for its record: one entry for each estimate, and the warnings that follow from the last."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from cgbench_methods.annealed_generators.samples import FlowSamples
from cgbench_methods.annealed_generators.schedules import Schedule
from cgbench_methods.lib.estimators.importance import LARGEST_SHARE, RELIABLE_PARETO_K, pareto_tail_index
from cgbench_methods.lib.estimators.jackknife import warnings_of_errors

__all__ = ["History"]

POOR = 0.01  # effective sample size below which the PMF is not reliable


class History:
    """Entries of the record, and what has been gathered for the next.

    Attributes
    ----------
    entries
        One for each estimate.
    losses
        Losses of the updates since the last entry.
    facts
        What the present stage has to say: temperature or multipliers of its target, and effective sample sizes.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.losses: list[float] = []
        self.facts: dict[str, Any] = {}

    @property
    def evaluations(self) -> int | None:
        """Evaluations at the last entry; None before the first."""
        return int(self.entries[-1]["evaluations"]) if self.entries else None

    def add(self, phase: str, stage: int, evaluations: int, samples: FlowSamples, share: float) -> None:
        """Add an entry, with the mean of the losses since the one before.

        Parameters
        ----------
        phase, stage, evaluations
            Where the run is.
        samples
            The samples of the present flow, and the estimate.
        share
            Effective sample size of the present flow as a fraction.
        """
        self.entries.append(
            {
                "phase": phase,
                "stage": stage,
                "evaluations": evaluations,
                "loss": sum(self.losses) / len(self.losses) if self.losses else None,
                "effective_sample_size": share,
                "pareto_k": _number(pareto_tail_index(torch.cat(samples.log_weights))),
                "effective_samples_of_estimate": samples.maps.first.effective_samples,
                "log_normalisation": _number(samples.maps.first.log_normalisation),
                **self.facts,
            }
        )
        self.losses = []

    def diagnostics(self, schedule: Schedule, samples: FlowSamples) -> dict[str, Any]:
        """Return the entries, facts about the fit, and warnings."""
        if not self.entries:
            return {}
        last, warnings = self.entries[-1], list(schedule.warnings)
        if not schedule.at_target:
            warnings.append("the flow has not been trained on the target yet")
        if last["effective_sample_size"] < POOR:
            warnings.append(f"the effective sample size of the flow's weights is below {POOR:.0%}")
        if (last["pareto_k"] or 0.0) > RELIABLE_PARETO_K:
            warnings.append(f"weights have a heavy tail (Pareto k = {last['pareto_k']:.2f}): the PMF may be too high")
        if samples.maps.first.largest_share > LARGEST_SHARE:
            warnings.append(f"one sample has {samples.maps.first.largest_share:.0%} of the total weight of the PMF")
        expected = samples.maps.fits.get("expected_kld")
        if expected is None:
            warnings.append("too few samples: the expected forward KLD is not known")
        warnings += warnings_of_errors(expected)
        return samples.maps.fits | {
            "history": list(self.entries),
            "outside_state_space": samples.dropped / max(samples.drawn, 1),
            "truncated_weights": samples.maps.first.truncated,
            "reliable": not warnings,
            "warnings": warnings,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return entries, losses and facts."""
        return {"losses": list(self.losses), "facts": dict(self.facts), "history": list(self.entries)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.losses, self.facts, self.entries = list(state["losses"]), dict(state["facts"]), list(state["history"])


def _number(value: float) -> float | None:
    """Return a finite number, else None, for records."""
    return value if math.isfinite(value) else None
