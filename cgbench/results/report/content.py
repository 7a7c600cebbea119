"""The content of the page, as one dictionary that can be written as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import load_pmfs
from cgbench.contracts.pmf import PMF
from cgbench.contracts.reference import Reference
from cgbench.contracts.system import System, maps_of
from cgbench.drawing.pmf import CUT
from cgbench.errors import UserError
from cgbench.results.leaderboard import leaderboard
from cgbench.results.report.arrays import STORED_TO, colour_table, encode
from cgbench.results.report.curves import median_curve
from cgbench.results.rows import KEY, grouped
from cgbench.results.runs import FoundRun, find_runs
from cgbench.running.record import Record, to_json

__all__ = ["gather"]

Array = NDArray[np.float64]


def _place(run: FoundRun) -> tuple[Any, ...]:
    """Return where a run stands in the page, whatever the order of the folders."""
    record = run.record
    return (record.system, record.system_version, record.method, record.preset, record.config_hash, record.seed)


def gather(folders: Sequence[Path]) -> dict[str, Any]:
    """Gather leaderboard, curves, PMFs and records of all runs with a final PMF, and the references of their systems.

    Non-finite numbers are the strings "inf", "-inf" and "nan", as in a record.

    Raises
    ------
    UserError
        If a folder is missing or holds no run with a final PMF, or if a file of a run cannot be read.
    """
    skipped: list[Record] = []
    found = sorted(find_runs(folders, on_skip=skipped.append), key=_place)
    if not found:
        names = ", ".join(repr(str(folder)) for folder in folders)
        raise UserError(f"no finished run below {names} (--runs): nothing to report")
    runs: list[dict[str, Any]] = []
    grids: dict[tuple[str, str], list[list[dict[str, Any]]]] = {}
    for run in found:
        pmfs = _pmfs(run)
        if pmfs:
            grids.setdefault((run.record.system, run.record.system_version), [_axes(pmf.cvs) for pmf in pmfs])
        curve = {"evaluations": run.evaluations.tolist(), "forward_kld": run.forward_kld.tolist()}
        encoded = [encode(_free_energy(pmf.probability)) for pmf in pmfs]
        runs.append({"record": run.record.model_dump(), "curve": curve, "pmfs": encoded})
    versions = sorted({(run.record.system, run.record.system_version) for run in found})
    table = leaderboard(found, [record for record in skipped if record.status == "failed"])
    content = {
        "cut": CUT,
        "stored_to": STORED_TO,
        "colours": {"sequential": colour_table("viridis"), "diverging": colour_table("RdBu_r")},
        "columns": list(table.columns),
        "leaderboard": [[_plain(cell) for cell in row] for row in table.astype(object).to_numpy()],
        "systems": [_system(*version, grids.get(version)) for version in versions],
        "groups": _groups(found),
        "runs": runs,
    }
    cleaned: dict[str, Any] = json.loads(to_json(content))
    return cleaned


def _plain(value: Any) -> Any:
    """Convert numpy's types, which JSON does not have."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _pmfs(run: FoundRun) -> tuple[PMF, ...]:
    """Load the PMFs of a run, one for each map; none if the file was removed."""
    assert run.path is not None
    path = run.path / "pmf.npz"
    return load_pmfs(path) if path.exists() else ()


def _free_energy(probability: Array) -> Array:
    """Return the free energy in kT over the first two CVs, with minimum 0; the others are summed out."""
    marginal = probability.sum(axis=tuple(range(2, probability.ndim)))
    with np.errstate(divide="ignore"):
        energy = -np.log(marginal / marginal.sum())
    return np.asarray(energy - energy.min())


def _axes(cvs: CollectiveVariables) -> list[dict[str, Any]]:
    """Return the facts about the first two CVs."""
    return [
        {"name": cvs.names[k], "unit": cvs.unit, "lower": cvs.lower[k], "upper": cvs.upper[k], "bins": cvs.bins[k]}
        for k in range(min(2, len(cvs)))
    ]


def _system(name: str, version: str, axes: list[list[dict[str, Any]]] | None) -> dict[str, Any]:
    """Return the axes of each map of one version of a system, and its reference or why it cannot be shown."""
    facts: dict[str, Any] = {"name": name, "version": version, "maps": axes or [], "reference": None, "problem": None}
    try:
        system = _load(name, version)
        reference = _reference(system)
    except UserError as error:
        return facts | {"problem": " ".join(str(error).split())}
    facts["maps"] = [_axes(one.cvs) for one in maps_of(system)]
    facts["reference"] = {
        "source": reference.source,
        "sha256": reference.sha256,
        "noise_floor": reference.noise_floor,
        "pmfs": [encode(_free_energy(one.pmf.probability)) for one in reference.maps],
    }
    return facts


def _load(name: str, version: str) -> System:
    from cgbench.running.plugins import construct_system
    from cgbench.running.registry import load

    cls = load("system", name)
    if cls.version != version:
        raise UserError(f"version {version} of {name} is not installed (version {cls.version} is)")
    return construct_system(cls, name)


def _reference(system: System) -> Reference:
    """Return the reference from the referee, which alone may read it."""
    from cgbench.scoring.referee import Referee

    referee = Referee(system)
    if referee.reference is None:
        raise UserError(str(referee.problem))
    return referee.reference


def _groups(runs: Sequence[FoundRun]) -> list[dict[str, Any]]:
    """Return the groups of runs that the leaderboard has as rows, each with the median of its curves."""
    index = {id(run): number for number, run in enumerate(runs)}
    return [
        dict(zip(KEY, key, strict=True))
        | {
            "runs": [index[id(member)] for member in members],
            "median": median_curve([(member.evaluations, member.forward_kld) for member in members]),
        }
        for key, members in grouped(runs).items()
    ]
