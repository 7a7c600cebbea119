"""Warnings that the published recipe derives from the history of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cgbench_methods.lib.estimators.importance import LARGEST_SHARE

__all__ = ["published_warnings"]


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
