"""Agreement of the final PMFs of runs with each other, for systems without a reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cgbench.contracts.maps import load_pmfs
from cgbench.contracts.pmf import PMF
from cgbench.errors import UserError
from cgbench.results.runs import FoundRun, find_runs
from cgbench.scoring.divergences import forward_kld, total_variation

__all__ = ["COMPARED_BELOW", "agreement"]

COMPARED_BELOW = 8.0  # kT, in both PMFs
COLUMNS = ["system", "a", "b", "forward_kld", "total_variation", "rms_difference_kT", "largest_difference_kT"]
COLUMNS += ["within_errors"]
TWO_SIDED_95 = 1.96

Array = NDArray[np.float64]


def agreement(first: Sequence[Path], second: Sequence[Path]) -> pd.DataFrame:
    """Compare the PMF of every run in the first folders with that of every run in the second.

    Parameters
    ----------
    first, second
        Folders of runs; a pair of runs counts once, and no run is compared with itself.

    Returns
    -------
    pandas.DataFrame
        One row per pair of runs on the same system and version. ``forward_kld`` is D(a || b), as means over
        maps, like ``total_variation``. Differences of free energies are over the bins below 8 kT in both, shifted to
        zero mean; the root mean square is weighted by the mean of the two probabilities. ``within_errors`` is the share
        of these bins whose difference is within 1.96 combined standard errors; nan if either run claims none.

    Raises
    ------
    UserError
        If a folder is missing, or there is no pair of runs with PMFs on the same system.
    """
    rows: list[dict[str, Any]] = []
    seen: set[frozenset[Path]] = set()
    loaded: dict[Path, tuple[PMF, ...]] = {}
    for a in find_runs(first):
        for b in find_runs(second):
            paths = [_path(run) for run in (a, b)]
            pair = frozenset(path.resolve() for path in paths)
            same = (a.record.system, a.record.system_version) == (b.record.system, b.record.system_version)
            if not same or len(pair) < 2 or pair in seen or not all((path / "pmf.npz").exists() for path in paths):
                continue
            seen.add(pair)
            for path in paths:
                loaded.setdefault(path, load_pmfs(path / "pmf.npz"))
            names = {"system": a.record.system, "a": _name(a), "b": _name(b)}
            rows.append(names | _compare(loaded[paths[0]], loaded[paths[1]], *paths))
    if not rows:
        raise UserError("there are no two finished runs on the same system (in the same version) to compare")
    return pd.DataFrame(rows, columns=COLUMNS).sort_values(["system", "a", "b"], kind="stable", ignore_index=True)


def _path(run: FoundRun) -> Path:
    assert run.path is not None
    return run.path


def _name(run: FoundRun) -> str:
    return f"{run.record.method} {run.record.preset} {run.record.seed}"


def _compare(a: Sequence[PMF], b: Sequence[PMF], path: Path, other: Path) -> dict[str, float]:
    if [pmf.cvs.bins for pmf in a] != [pmf.cvs.bins for pmf in b]:
        raise UserError(f"the PMFs of {path} and {other} are on different grids")
    pairs = list(zip(a, b, strict=True))
    differences, weights, spreads = (np.concatenate(parts) for parts in zip(*map(_difference, a, b), strict=True))
    return {
        "forward_kld": float(np.mean([forward_kld(p.probability, q.probability) for p, q in pairs])),
        "total_variation": float(np.mean([total_variation(p.probability, q.probability) for p, q in pairs])),
        "rms_difference_kT": float(np.sqrt(np.average(differences**2, weights=weights))),
        "largest_difference_kT": float(np.abs(differences).max()),
        "within_errors": float(np.mean(np.abs(differences) <= TWO_SIDED_95 * spreads))
        if np.isfinite(spreads).all()
        else float("nan"),
    }


def _difference(a: PMF, b: PMF) -> tuple[Array, Array, Array]:
    """Return differences of free energies in kT, weights and combined standard errors (nan if unknown) of low bins."""
    low = (a.free_energy < COMPARED_BELOW) & (b.free_energy < COMPARED_BELOW)
    if not low.any():  # nothing in common
        low = np.ones(a.cvs.bins, dtype=bool)
    weights = 0.5 * (a.probability[low] + b.probability[low])
    difference = a.free_energy[low] - b.free_energy[low]
    difference = difference - np.average(difference, weights=weights)
    if a.free_energy_std is None or b.free_energy_std is None:
        return difference, weights, np.full(len(difference), np.nan)
    return difference, weights, np.hypot(a.free_energy_std[low], b.free_energy_std[low])
