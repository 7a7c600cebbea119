"""Recomputing the metrics of finished runs from their stored PMFs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgbench.contracts.maps import Estimate
from cgbench.contracts.pmf import PMF
from cgbench.contracts.system import System, maps_of
from cgbench.errors import UserError
from cgbench.results.runs import FoundRun, find_runs
from cgbench.running.plugins import construct_system
from cgbench.running.record import Record, record_bytes
from cgbench.running.registry import load
from cgbench.running.run_folder import RunFolder
from cgbench.scoring.referee import METRICS_VERSION, Referee
from cgbench.storage.files import read_npz

__all__ = ["Rescored", "rescore", "stored_estimate"]

SAME = 1e-9  # relative: sums in another order differ by less
Scores = dict[str, float | None]


@dataclass(frozen=True)
class Rescored:
    """What rescoring one run found.

    Attributes
    ----------
    path
        Folder of the run.
    changes
        Metrics that changed, with the old and the new value; None for a metric that was or is missing.
    version
        Version of the metrics in the record before.
    reference_changed
        Whether the record names another reference.
    older_estimates
        Estimates of the curve before the last, whose PMFs are not stored; their metrics stay as they are.
    problem
        Why the run could not be rescored, or None.
    """

    path: Path
    changes: Mapping[str, tuple[float | None, float | None]]
    version: int | None
    reference_changed: bool = False
    older_estimates: int = 0
    problem: str | None = None

    @property
    def current(self) -> bool:
        """Whether the record has the current metrics and says so."""
        return not (self.changes or self.problem or self.reference_changed) and self.version == METRICS_VERSION


def rescore(
    folders: Sequence[Path], write: bool = True, on_result: Callable[[Rescored], None] = lambda found: None
) -> list[Rescored]:
    """Recompute the metrics of all runs with a final PMF below the folders.

    The record gets the metrics of the stored PMF, the version of the metrics and the reference; the last row of the
    curve gets the same metrics. A record that has all of this is not written. Metrics that need samples or a model
    (``density``, and those of publications) stay as they are.

    Parameters
    ----------
    folders
        Folders of runs, searched at any depth.
    write
        Write what changed; otherwise only report it.
    on_result
        Called after each run.

    Raises
    ------
    UserError
        If a folder is missing, or a record or curve cannot be read or written.
    """
    referees: dict[tuple[str, str], Referee | str] = {}
    found = []
    for run in find_runs(folders):
        key = run.record.system, run.record.system_version
        if key not in referees:
            referees[key] = _referee(*key)
        one = _rescored(run, referees[key], write)
        found.append(one)
        on_result(one)
    return found


def _referee(name: str, version: str) -> Referee | str:
    """Return the referee of a version of a system, or why there is none."""
    try:
        cls = load("system", name)
        if cls.version != version:
            return f"version {version} of {name} is not installed (version {cls.version} is)"
        referee = Referee(construct_system(cls, name))
    except UserError as error:
        return " ".join(str(error).split())
    return referee if referee.reference is not None else str(referee.problem)


def _rescored(run: FoundRun, referee: Referee | str, write: bool) -> Rescored:
    assert run.path is not None
    record = run.record
    if isinstance(referee, str):
        return Rescored(run.path, {}, record.metrics_version, problem=referee)
    try:
        scores = referee.score(stored_estimate(run.path / "pmf.npz", referee.system))
    except (ValueError, KeyError) as error:
        return Rescored(run.path, {}, record.metrics_version, problem=f"pmf.npz: {' '.join(str(error).split())}")
    changes = {
        name: (record.metrics.get(name), value)
        for name, value in scores.items()
        if name not in record.metrics or not _same(record.metrics[name], value)
    }
    facts = referee.facts() or {}
    other = (record.reference or {}).get("sha256") != facts["sha256"]
    found = Rescored(run.path, changes, record.metrics_version, other, max(len(run.evaluations) - 1, 0))
    if write and not found.current and (problem := _write(run.path, record, changes, facts if other else None)):
        return replace(found, problem=problem)
    return found


def _same(old: float | None, new: float | None) -> bool:
    if old is None or new is None:
        return old is new
    return math.isclose(old, new, rel_tol=SAME, abs_tol=1e-12) or (math.isnan(old) and math.isnan(new))


def stored_estimate(path: Path, system: System) -> Estimate:
    """Return the estimate in a ``pmf.npz``, bit for bit."""
    arrays = read_npz(path)
    pmfs = []
    for number, one in enumerate(maps_of(system)):
        prefix = f"map_{number}_" if number else ""
        std = arrays.get(f"{prefix}free_energy_std")
        pmfs.append(PMF.restored(one.cvs, np.asarray(arrays[f"{prefix}probability"]), std))
    populations = None
    if system.states is not None:
        populations = dict(zip(system.states.names, arrays["state_populations"].tolist(), strict=True))
    return Estimate(tuple(pmfs), populations)


def _write(
    path: Path, record: Record, changes: Mapping[str, tuple[Any, float | None]], reference: dict[str, Any] | None
) -> str | None:
    """Write new metrics, and the facts of another reference, unless the run goes on. Return why they were not."""
    folder = RunFolder(path)
    lock = folder.lock if folder.lock.path.parent.is_dir() else None  # a process creates it with its first file
    try:
        if lock is not None:
            lock.acquire()
    except (UserError, OSError) as error:
        return " ".join(str(error).split())
    try:
        now = folder.read_record()
        if now is None or record_bytes(now) != record_bytes(record):
            return "it has changed since it was read: rescore it again"
        _write_metrics(folder, record, changes, reference)
    finally:
        if lock is not None:
            lock.release()
    return None


def _write_metrics(
    folder: RunFolder, record: Record, changes: Mapping[str, tuple[Any, float | None]], reference: dict[str, Any] | None
) -> None:
    path = folder.path
    new = {name: value for name, (_, value) in changes.items()}
    if new:
        table = pd.read_csv(path / "curve.csv", dtype=str, keep_default_na=False)
        if len(table):  # the last estimate is the one in pmf.npz, also if evaluations followed it
            for name, value in new.items():
                if name not in table.columns:
                    table[name] = ""
                table.loc[table.index[-1], name] = "" if value is None else repr(value)
            folder.write("curve.csv", table.to_csv(index=False, lineterminator="\n").encode())
    updated = {"metrics": record.metrics | new, "metrics_version": METRICS_VERSION}
    updated |= {} if reference is None else {"reference": reference}
    folder.write_record(record.model_copy(update=updated))
