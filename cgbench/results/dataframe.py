"""Runs as a pandas table, one row per run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from cgbench.results.runs import ENDED, TARGETS, FoundRun, find_runs
from cgbench.running.record import Status

__all__ = ["COLUMNS", "read_runs"]

COLUMNS: dict[str, str] = {
    "system": "string",
    "system_version": "string",
    "method": "string",
    "preset": "string",
    "seed": "int64",
    "status": "string",
    "evaluations": "int64",
    "evaluations_with_gradient": "float64",
    "evaluations_paper_convention": "int64",
    "forward_kld": "float64",
    "reverse_kld": "float64",
    "jensen_shannon": "float64",
    "total_variation": "float64",
    **dict.fromkeys(TARGETS, "float64"),
    "noise_floor": "float64",
    "wall_s": "float64",
    "cpu_s": "float64",
    "threads": "int64",
    "hardware": "string",
    "commit": "string",
    "code": "string",
    "path": "string",
}
ORDER = ["system", "system_version", "method", "preset", "seed", "path"]


def read_runs(*folders: str | Path, unfinished: bool = False) -> pd.DataFrame:
    """Return a table of the runs below the folders; see `cgbench.read_runs`.

    Raises
    ------
    UserError
        If a folder is missing, or a record or curve cannot be read.
    """
    statuses: Sequence[Status] = get_args(Status) if unfinished else ENDED
    rows = [_row(run) for run in find_runs([Path(folder) for folder in folders or ("runs",)], statuses)]
    metrics = sorted({name for row in rows for name in row} - set(COLUMNS))
    table = pd.DataFrame(rows, columns=[*COLUMNS, *metrics])
    table = table.astype(COLUMNS | dict.fromkeys(metrics, "float64"))
    return table.sort_values(ORDER, kind="stable", ignore_index=True)


def _row(run: FoundRun) -> dict[str, Any]:
    record = run.record
    gradients = record.evaluations.with_gradient
    metrics = {name: math.nan if value is None else value for name, value in record.metrics.items()}
    return metrics | {
        "system": record.system,
        "system_version": record.system_version,
        "method": record.method,
        "preset": record.preset,
        "seed": record.seed,
        "status": record.status,
        "evaluations": record.evaluations.total,
        "evaluations_with_gradient": math.nan if gradients is None else float(gradients),
        "evaluations_paper_convention": record.evaluations.publication_convention,
        **{name: run.evaluations_to(target) for name, target in TARGETS.items()},
        "noise_floor": (record.reference or {}).get("noise_floor", math.nan),
        "wall_s": record.wall_seconds,
        "cpu_s": run.cpu_seconds,
        "threads": record.threads,
        "hardware": run.hardware,
        "commit": _commit(record.provenance.get("git")),
        "code": record.provenance.get("code"),
        "path": str(run.path),
    }


def _commit(git: dict[str, Any] | None) -> str | None:
    commit = (git or {}).get("commit")
    return f"{commit}{'-dirty' * bool((git or {}).get('dirty'))}" if commit else None
