"""Finding runs on disk, and reading costs off their convergence curves."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cgbench.errors import UserError
from cgbench.running.record import Record, Status
from cgbench.running.run_folder import RunFolder

__all__ = ["ENDED", "TARGETS", "FoundRun", "find_runs", "first_held"]

TARGETS = {f"evaluations_to_kld_{target}": float(target) for target in ("1e-1", "1e-2", "1e-3")}
ENDED: tuple[Status, ...] = ("finished", "budget")  # statuses of runs that have a final PMF
AUXILIARY = {  # columns of side_estimates.csv
    "name": "ESTIMATOR/WALKERS, such as histogram/8",
    "replicate": "a number",
    "evaluations": "a number above 0",
    "forward_kld": "a number or empty",
}
WALKERS = r"[^/]+/[1-9][0-9]{0,8}"
Array = NDArray[np.float64]


@dataclass(frozen=True)
class FoundRun:
    """A run read from disk: its record, its convergence curve, its auxiliary estimates if any, and its folder.

    `wall` and `cpu` are the seconds of the method at each estimate; None where the curve does not have them.
    """

    record: Record
    evaluations: Array
    forward_kld: Array
    auxiliary: pd.DataFrame | None = None
    path: Path | None = None
    wall: Array | None = None
    cpu: Array | None = None

    @property
    def noise_floor(self) -> float:
        """Forward KLD caused by the noise of the reference."""
        return float((self.record.reference or {}).get("noise_floor", 0.0))

    @property
    def final_kld(self) -> float:
        """Forward KLD of the final PMF; nan if it was not scored."""
        kld = self.record.metrics.get("forward_kld")
        return math.nan if kld is None else kld

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of the method, without scoring."""
        return sum(spent.get("cpu", 0.0) for spent in self.record.seconds.values())

    @property
    def hardware(self) -> str:
        """Name of the accelerator, or of the CPU if none was used."""
        return str(self.record.provenance.get("accelerator") or self.record.provenance.get("cpu", ""))

    @property
    def speed(self) -> float | None:
        """Speed of a thread of the machine, as `measured_speed` returns it; None if it was not measured."""
        speed = self.record.provenance.get("speed")
        return float(speed) if isinstance(speed, (int, float)) and speed > 0 else None

    @property
    def doubt(self) -> str | None:
        """Why the result is not reliable, as the record says; None if it does not say so."""
        if self.record.diagnostics.get("reliable") is not False:
            return None
        return next(iter(self.record.warnings), "the record gives no reason")

    @property
    def scored(self) -> bool:
        """Whether its estimates are scored: the system may have no reference."""
        return self.record.reference is not None

    def evaluations_to(self, target: float) -> float:
        """Return the evaluations from which on the forward KLD stays at or below the target.

        Infinite for a miss, nan for a run without scores.
        """
        if not self.scored:
            return math.nan
        held = first_held(self.forward_kld, target)
        return math.inf if held is None else float(self.evaluations[held])


def find_runs(
    folders: Sequence[Path],
    statuses: Collection[Status] = ENDED,
    on_skip: Callable[[Record], None] = lambda record: None,
) -> list[FoundRun]:
    """Read the runs below the folders, each file once.

    Parameters
    ----------
    folders
        Folders of runs, searched at any depth, also behind symbolic links.
    statuses
        Statuses of the runs to return. By default those that have a final PMF: finished, or stopped by the budget.
    on_skip
        Called with the record of every run of another status.

    Raises
    ------
    UserError
        If a folder is missing, or a folder, record, curve or table cannot be read.
    """
    paths: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no folder of runs {str(folder)!r} (--runs)")
        for path in _records_below(folder):
            paths.setdefault(path.resolve(), path.parent)
    found = []
    for path in paths.values():
        record = RunFolder(path).read_record()
        if record is None:
            continue
        if record.status in statuses:
            found.append(_found_run(record, path))
        else:
            on_skip(record)
    return found


def _records_below(folder: Path) -> list[Path]:
    """Return the records at any depth, sorted. Each folder is visited once, by whatever name it is found."""

    def fail(error: OSError) -> NoReturn:
        raise UserError(f"folder {error.filename} cannot be read: {error.strerror}") from error

    found, visited = [], set()
    for name, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        real = os.path.realpath(name)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders.sort()
        if "record.json" in files:
            found.append(Path(name, "record.json"))
    return sorted(found)


def _found_run(record: Record, path: Path) -> FoundRun:
    _check_record(record, path / "record.json")
    curve = path / "curve.csv"
    if record.status not in ENDED and not curve.exists():  # interrupted before its first estimate was saved
        return FoundRun(record, np.empty(0), np.empty(0), None, path)
    try:
        found = _read_curve(curve)
    except (OSError, LookupError, ValueError, csv.Error) as error:
        raise UserError(f"curve {curve} cannot be read: {error}") from error
    known = found["evaluations"], found["forward_kld"]
    table = _read_auxiliary(path / "side_estimates.csv", _is_md(record))
    return FoundRun(record, *known, table, path, found.get("wall_s"), found.get("cpu_s"))


def _is_md(record: Record) -> bool:
    """Whether the MD curve may rest on a run."""
    return record.method == "md" and record.origin == "run"


def _check_record(record: Record, path: Path) -> None:
    """Check what is used of the parts of a record that may hold anything; somebody may have edited them."""
    floor, git = (record.reference or {}).get("noise_floor", 0.0), record.provenance.get("git")
    try:
        float(floor)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{path}: reference.noise_floor is {str(floor)[:40]!r}, not a number") from None
    if git and not isinstance(git, dict):
        raise UserError(f"{path}: provenance.git is {str(git)[:40]!r}, not an object")
    walkers = record.config.get("walkers", 1)
    if _is_md(record) and not (type(walkers) is int and walkers >= 1):
        raise UserError(f"{path}: config.walkers is {str(walkers)[:40]!r}, not a whole number above 0")


def _read_auxiliary(path: Path, of_md: bool) -> pd.DataFrame | None:
    """Read the auxiliary estimates; None if there are none.

    The names of those `of_md` must state the number of walkers; the MD curve rests on it.
    """
    if not path.exists():
        return None
    try:
        table = pd.read_csv(path, dtype={"name": str})
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    missing = [name for name in AUXILIARY if name not in table.columns]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}: its columns must be {', '.join(AUXILIARY)}")
    if table.empty:
        return None
    numbers = {name: pd.to_numeric(table[name], errors="coerce") for name in AUXILIARY if name != "name"}
    unknown = [name for name in table["name"].unique() if not re.fullmatch(WALKERS, str(name))] if of_md else []
    wrong = {
        "name": table["name"].isin(unknown),
        "replicate": ~np.isfinite(numbers["replicate"]),
        "evaluations": ~(np.isfinite(numbers["evaluations"]) & (numbers["evaluations"] > 0)),
        "forward_kld": numbers["forward_kld"].isna() & table["forward_kld"].notna(),  # empty without a score
    }
    for name, rows in wrong.items():
        if rows.any():
            row = int(np.flatnonzero(rows)[0])
            found = str(table[name].iloc[row])[:40]
            raise UserError(
                f"{path}: row {row + 1} has {found!r} in the column {name!r}, which must be {AUXILIARY[name]}"
            )
    return table.assign(**numbers)


def _read_curve(path: Path) -> dict[str, Array]:
    """Read evaluations, forward KLD and seconds; for these short files the csv module is ten times as fast as pandas.

    A column of seconds with a missing value is left out.
    """
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = [*csv.reader(file)] or [[]]
    columns = {name: header.index(name) for name in ("evaluations", "forward_kld")}
    columns |= {name: header.index(name) for name in ("wall_s", "cpu_s") if name in header}
    found = {name: np.array([float(row[column] or "nan") for row in rows]) for name, column in columns.items()}
    if not (np.isfinite(found["evaluations"]) & (found["evaluations"] >= 0)).all():
        raise ValueError("some evaluations are missing, negative or not finite")
    if (np.diff(found["evaluations"]) < 0).any():
        raise ValueError("the evaluations do not rise from row to row")
    return {name: values for name, values in found.items() if not (name.endswith("_s") and np.isnan(values).any())}


def first_held(forward_kld: Array, target: float) -> int | None:
    """Return the first estimate from which on the forward KLD stays at or below the target; None for a miss.

    This is what "reached" means everywhere. A forward KLD of nan is above every target.
    """
    above = np.flatnonzero(~(forward_kld <= target))
    first = int(above[-1]) + 1 if len(above) else 0
    return first if first < len(forward_kld) else None
