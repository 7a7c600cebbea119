"""What the recipes warn of when the history of a run gives cause for doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cgbench_methods.lib.estimators.importance import LARGEST_SHARE

__all__ = ["harmonic_warnings", "published_warnings"]

RELIABLE_PARETO_K = 0.7
LEAST_EFFICIENCY = 0.02


def harmonic_warnings(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is doubtful about the last round of the harmonic recipe, from its entry in the history."""
    warnings = []
    last = history[-1] if history else {}
    if last.get("unfitted"):
        warnings.append("the last labels could not be fitted: the PMF is that of the fit before, or the atlas's alone")
    if last.get("largest_share", 0.0) > LARGEST_SHARE:
        warnings.append(f"one of the last weights holds {last['largest_share']:.0%} of their sum")
    if last.get("pareto_k", 0.0) > RELIABLE_PARETO_K:
        warnings.append(f"weights have a heavy tail (Pareto k = {last['pareto_k']:.2f}): labels may be too high")
    efficiency = last.get("effective_sample_size", 1.0)
    if not efficiency > LEAST_EFFICIENCY:
        warnings.append(f"effective sample size {efficiency:.1%}: the flow is poor, and so are the labels")
    return warnings


def published_warnings(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is doubtful about the iterations of the published recipe, from their entries in the history."""
    warnings = []
    without = [str(entry["iteration"]) for entry in history if not entry.get("ensemble_has_spread", True)]
    if without:
        warnings.append(
            f"the ensemble had no spread in iteration {', '.join(without)}, fitted twice: where it is uncertain is "
            "not known, and that no walker stopped does not mean that nothing is left to explore"
        )
    if history and history[-1].get("largest_share", 0.0) > LARGEST_SHARE:
        warnings.append(f"one weight of the last labels holds {history[-1]['largest_share']:.0%} of their sum")
    return warnings
