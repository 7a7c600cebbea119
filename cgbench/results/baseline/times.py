"""Seconds that methods and plain MD need to reach a forward KLD."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgbench.results.rows import same_speed
from cgbench.results.runs import FoundRun, first_held

__all__ = ["md_seconds_per_evaluation", "scaled", "seconds_to", "total_seconds"]

Array = NDArray[np.float64]


def total_seconds(run: FoundRun) -> float:
    """Return the seconds of a run: CPU seconds of runs on a CPU, wall seconds of those on an accelerator.

    CPU seconds depend less than wall seconds on what else the machine does. nan for an external result.
    """
    if run.record.origin == "external" or not run.record.seconds:
        return math.nan
    return run.cpu_seconds if run.record.device == "cpu" else run.record.wall_seconds


def scaled(run: FoundRun) -> bool:
    """Return whether the seconds at an estimate are wall seconds, scaled to CPU seconds by the totals of the run.

    The curves of older runs have no CPU seconds.
    """
    return run.record.device == "cpu" and run.cpu is None


def seconds_to(run: FoundRun, target: float) -> float:
    """Return the seconds at which `FoundRun.evaluations_to` is reached; infinite for a miss, nan if not known."""
    if not run.scored:
        return math.nan
    total, held = total_seconds(run), first_held(run.forward_kld, target)
    if math.isnan(total):
        return math.nan
    if held is None:
        return math.inf
    if run.record.device == "cpu" and run.cpu is not None:
        return float(run.cpu[held])
    if run.wall is None:
        return math.nan
    wall = run.record.wall_seconds
    share = 1.0 if run.record.device != "cpu" else total / wall if wall > 0 else math.nan
    return float(run.wall[held]) * share


def _machine(run: FoundRun) -> dict[str, Any]:
    r = run.record
    kernels = "compiled" if r.provenance.get("native") else "none"
    return {
        "hardware": run.hardware,
        "threads": r.threads,
        "engine": r.engine,
        "device": r.device.partition(":")[0],
        "kernels": kernels,
    }


def md_seconds_per_evaluation(members: Sequence[FoundRun], md: Sequence[FoundRun]) -> tuple[float, str]:
    """Return the seconds of plain MD per evaluation on the machine of a row.

    Parameters
    ----------
    members
        The seeds of a row.
    md
        Runs of plain MD on the same version of the system, of any preset.

    Returns
    -------
    tuple
        Median over the runs of MD with the same hardware, threads, engine, device and kernels (compiled or not), on
        machines whose measured speed, where it is known, differs by less than a quarter, and ""; or nan and the reason.
    """
    if any(math.isnan(total_seconds(m)) for m in members):
        return math.nan, "its time is unknown"
    machines = [_machine(m) for m in members]
    differing = [name for name in machines[0] if any(one[name] != machines[0][name] for one in machines)]
    if differing:
        return math.nan, f"its seeds differ in {', '.join(differing)}"
    known = [run for run in md if run.record.evaluations.total and total_seconds(run) > 0]
    same = [run for run in known if _machine(run) == machines[0]]
    if not same:
        one = machines[0]
        threads = "1 thread" if one["threads"] == 1 else f"{one['threads']} threads"
        kernels = "compiled kernels" if one["kernels"] == "compiled" else "no compiled kernels"
        return math.nan, f"no run of MD on {one['hardware']} with {threads}, engine {one['engine']} and {kernels}"
    same = [run for run in same if same_speed([run, *members])]
    if not same:
        return math.nan, "the machines of the seeds and of MD differ in measured speed"
    return float(np.median([total_seconds(run) / run.record.evaluations.total for run in same])), ""
