"""Warnings that the recipes derive from the history of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cgbench_methods.lib.estimators.importance import LARGEST_SHARE, RELIABLE_PARETO_K

__all__ = ["harmonic_warnings", "published_warnings"]

LEAST_EFFICIENCY = 0.02


def harmonic_warnings(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return warnings about the last round of the harmonic recipe."""
    warnings = []
    last = history[-1] if history else {}
    if last.get("unfitted"):
        warnings.append(
            "the weighted samples of the last round could not be fitted: the PMF is that of the round before, or of "
            "the harmonic minima"
        )
    if last.get("largest_share", 0.0) > LARGEST_SHARE:
        warnings.append(f"one importance weight of the last round holds {last['largest_share']:.0%} of their sum")
    if last.get("pareto_k", 0.0) > RELIABLE_PARETO_K:
        warnings.append(f"weights have a heavy tail (Pareto k = {last['pareto_k']:.2f}): the PMF may be too high")
    efficiency = last.get("effective_sample_size", 1.0)
    if not efficiency > LEAST_EFFICIENCY:
        warnings.append(
            f"effective sample size {efficiency:.1%}: the flow is a poor approximation, and the PMF is unreliable"
        )
    return warnings


def published_warnings(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return warnings about the iterations of the published recipe."""
    warnings = []
    without = [str(entry["iteration"]) for entry in history if not entry.get("ensemble_has_spread", True)]
    if without:
        warnings.append(
            f"the ensemble had no spread in iteration {', '.join(without)}, even after a second fit: its uncertainty "
            "is unknown, so unexplored regions may remain although no walker stopped"
        )
    if history and history[-1].get("largest_share", 0.0) > LARGEST_SHARE:
        warnings.append(
            f"one importance weight of the last labels holds {history[-1]['largest_share']:.0%} of their sum"
        )
    return warnings
