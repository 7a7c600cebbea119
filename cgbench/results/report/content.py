"""All that the page shows, as one JSON-able dictionary."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgbench.contracts.reference import Reference
from cgbench.contracts.system import System
from cgbench.drawing.pmf import CUT
from cgbench.errors import UserError
from cgbench.results.leaderboard import leaderboard
from cgbench.results.report.arrays import STORED_TO, colour_table, encode
from cgbench.results.report.curves import median_curve
from cgbench.results.runs import FoundRun, find_runs
from cgbench.running.record import to_json
from cgbench.storage.files import read_npz

__all__ = ["gather"]

Array = NDArray[np.float64]


def gather(folders: Sequence[Path]) -> dict[str, Any]:
    """Gather leaderboard, curves, PMFs and records of all ended runs, and the references they are judged by.

    Numbers that are not finite are the strings "inf", "-inf" and "nan", as in a record.

    Raises
    ------
    UserError
        If a folder is missing, holds no ended run, or a file of a run cannot be read.
    """
    found = _runs(folders)
    if not found:
        raise UserError(f"no ended run below {', '.join(repr(str(f)) for f in folders)} (--runs): nothing to report")
    runs: list[dict[str, Any]] = []
    grids: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for folder, run in found:
        pmf, axes = _pmf(folder / "pmf.npz")
        if axes is not None:
            grids.setdefault((run.record.system, run.record.system_version), axes)
        curve = {"evaluations": run.evaluations.tolist(), "forward_kld": run.forward_kld.tolist()}
        runs.append({"record": run.record.model_dump(), "curve": curve, "pmf": pmf})
    versions = sorted({(run.record.system, run.record.system_version) for _, run in found})
    table = leaderboard([run for _, run in found])
    content = {
        "cut": CUT,
        "stored_to": STORED_TO,
        "colours": {"sequential": colour_table("viridis"), "diverging": colour_table("RdBu_r")},
        "columns": list(table.columns),
        "leaderboard": [[_plain(cell) for cell in row] for row in table.astype(object).to_numpy()],
        "systems": [_system(*version, grids.get(version)) for version in versions],
        "groups": _groups([run for _, run in found]),
        "runs": runs,
    }
    cleaned: dict[str, Any] = json.loads(to_json(content))
    return cleaned


def _plain(value: Any) -> Any:
    """A cell of a table without numpy's types, which JSON does not know."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def _runs(folders: Sequence[Path]) -> list[tuple[Path, FoundRun]]:
    """Ended runs with the folder of each."""
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no folder of runs {str(folder)!r} (--runs)")
    records = [path for folder in folders for path in sorted(folder.rglob("record.json"))]
    return [(path.parent, run) for path in dict.fromkeys(records) for run in find_runs([path.parent])]


def _pmf(path: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]] | None]:
    """Encode a run's free energy over its first two CVs; its axes as far as the file tells them."""
    if not path.exists():
        return None, None
    try:
        arrays = read_npz(path)
        probability = np.asarray(arrays["probability"], np.float64)
        centers = [np.asarray(arrays[f"centers_{axis}"], np.float64) for axis in range(min(2, probability.ndim))]
    except KeyError as error:
        raise UserError(f"PMF {path} is damaged: it has no array {error}") from error
    except ValueError as error:
        raise UserError(f"PMF {error}") from error
    if not (probability.ndim and np.isfinite(probability).all() and (probability >= 0).all() and probability.any()):
        raise UserError(f"PMF {path} is damaged: its probabilities are none")
    if any(c.shape != (n,) or n < 2 for c, n in zip(centers, probability.shape, strict=False)):
        raise UserError(f"PMF {path} is damaged: probability {probability.shape} does not fit its bin centres")
    axes = []
    for axis, c in enumerate(centers):
        half = (c[1] - c[0]) / 2
        axes.append(_axis(f"CV {axis + 1}", "", c[0] - half, c[-1] + half, len(c)))
    return encode(_free_energy(probability)), axes


def _free_energy(probability: Array) -> Array:
    """Free energy in kT, minimum 0, over the first two CVs; others are summed out."""
    marginal = probability.sum(axis=tuple(range(2, probability.ndim)))
    with np.errstate(divide="ignore"):
        energy = -np.log(marginal / marginal.sum())
    return np.asarray(energy - energy.min())


def _axis(name: str, unit: str, lower: float, upper: float, bins: int) -> dict[str, Any]:
    return {"name": name, "unit": unit, "lower": float(lower), "upper": float(upper), "bins": bins}


def _system(name: str, version: str, axes: list[dict[str, Any]] | None) -> dict[str, Any]:
    """One version of a system: its axes, and its reference or the reason why there is none."""
    facts: dict[str, Any] = {"name": name, "version": version, "axes": axes, "reference": None, "problem": None}
    try:
        system = _load(name, version)
        reference = _reference(system)
    except UserError as error:
        return facts | {"problem": " ".join(str(error).split())}
    cvs = system.cvs
    shown = range(min(2, len(cvs)))
    facts["axes"] = [_axis(cvs.names[a], cvs.unit, cvs.lower[a], cvs.upper[a], cvs.bins[a]) for a in shown]
    facts["reference"] = {
        "source": reference.source,
        "sha256": reference.sha256,
        "noise_floor": reference.noise_floor,
        "pmf": encode(_free_energy(reference.pmf.probability)),
    }
    return facts


def _load(name: str, version: str) -> System:
    from cgbench.running.registry import load

    cls = load("system", name)
    if cls.version != version:
        raise UserError(f"version {version} of {name} is not installed (version {cls.version} is)")
    try:
        system: System = cls()
    except Exception as error:  # a plugin may fail in any way
        raise UserError(f"{name} cannot be built: {type(error).__name__}: {error}") from error
    return system


def _reference(system: System) -> Reference:
    """The reference, by way of the referee, who alone may ask for it."""
    from cgbench.scoring.referee import Referee

    referee = Referee(system)
    if referee.reference is None:
        raise UserError(str(referee.problem))
    return referee.reference


def _groups(runs: Sequence[FoundRun]) -> list[dict[str, Any]]:
    """Runs of one method and preset on one system, and the median of their curves."""
    members: dict[tuple[str, str, str, str], list[int]] = defaultdict(list)
    for index, run in enumerate(runs):
        r = run.record
        members[r.system, r.system_version, r.method, r.preset].append(index)
    groups = []
    for key, indices in sorted(members.items()):
        names = dict(zip(("system", "version", "method", "preset"), key, strict=True))
        curves = [(runs[i].evaluations, runs[i].forward_kld) for i in indices]
        groups.append(
            names | {"runs": sorted(indices, key=lambda i: runs[i].record.seed), "median": median_curve(curves)}
        )
    return groups
