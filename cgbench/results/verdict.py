"""What a run says about its own result, for users of systems without a reference."""

from __future__ import annotations

from cgbench.results.numbers import rounded
from cgbench.running.record import Record

__all__ = ["own_errors", "verdict"]


def own_errors(record: Record) -> str | None:
    """Return the method's own errors in words, or None if it claims none."""
    claimed = record.claimed_errors
    if claimed is None:
        return None
    return (
        f"mean {rounded(claimed.mean_kT, 2)} kT, largest {rounded(claimed.largest_kT, 2)} kT, over bins below "
        f"{claimed.below_kT:g} kT"
    )


def verdict(record: Record) -> str:
    """Return in one line whether a run's result can be trusted, judged by its own diagnostics alone."""
    if record.status == "failed":
        return "no: the run failed"
    if record.diagnostics.get("reliable") is False or record.warnings:
        reason = record.diagnostics.get("reason") or next(iter(record.warnings), "its diagnostics say so")
        return f"no: {reason}"
    if record.status == "budget":
        return "not yet: the budget ended the run; extend it with a larger --budget"
    if record.claimed_errors is None:
        return (
            f"unknown: {record.method} claims no errors; run another seed or method and compare their PMFs "
            "(cgbench report)"
        )
    return "yes, as far as its own diagnostics can tell; a second seed or method would confirm it (cgbench report)"
