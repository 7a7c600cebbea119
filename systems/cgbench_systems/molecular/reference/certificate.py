"""The certified file: PMF, errors, noise floor, and the list of checks passed with their numbers."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import torch

from cgbench.contracts.pmf import PMF, basin_mask
from cgbench.contracts.system import Check, System
from cgbench.scoring.divergences import forward_kld
from cgbench.storage.files import npz_bytes, write_atomically
from cgbench_methods.lib.estimators.fourier_fit import FourierFit, choose_order, fit
from cgbench_systems.molecular.reference.biased import BiasedRoute
from cgbench_systems.molecular.reference.route import FRICTION, TIME_STEP, Array
from cgbench_systems.molecular.reference.statistics import bootstrap, grouped, halves, noise_floor, share

__all__ = ["basin_shares", "certify", "read_checks", "write_checks"]

RESAMPLES = 100


def basin_shares(system: System, groups: Array) -> dict[str, tuple[float, float]]:
    """Population and standard error of each named basin, from histograms of independent groups."""
    return {basin.name: share(groups, basin_mask(system.cvs, basin.contains)) for basin in system.basins}


def certify(route: BiasedRoute, folder: Path, facts: Mapping[str, Any]) -> None:
    """Write ``reference.npz`` and ``reference.json`` from the biased route.

    Parameters
    ----------
    route
        With its blocks.
    folder
        The system's reference folder.
    facts
        What the system says of itself: force field and the like.
    """
    system, exposure = route.system, route.exposure()
    bins = system.cvs.bins[0]
    groups = grouped(route.kept(), route.group)
    whole, parts = groups.sum(0), halves(groups)
    order, scores = choose_order(system.cvs, parts, exposure)
    best = fit(system.cvs, whole, exposure, order)
    pmf = PMF(system.cvs, best.probability())
    half_fits = [fit(system.cvs, part, exposure, order, best).probability() for part in parts]
    draws = bootstrap(groups, lambda h: fit(system.cvs, h, exposure, order, best).probability(), RESAMPLES)
    raw = PMF(system.cvs, whole)
    arrays = pmf.arrays() | {
        "standard_error": draws.std(axis=0, ddof=1),
        "unsmoothed_probability": raw.probability,
    }
    folder.mkdir(parents=True, exist_ok=True)
    content = npz_bytes(arrays)
    raw_floor = noise_floor(*parts)
    record: dict[str, Any] = {
        "source": f"{route.title}; {route.steps:.1e} steps of {route.walkers} walkers",
        "sha256": hashlib.sha256(content).hexdigest(),
        "noise_floor": noise_floor(*half_fits),
        "noise_floor_unsmoothed": raw_floor,
        "independent_samples": int((np.count_nonzero(whole) - 1) / (2 * raw_floor)),
        **facts,
        "system_version": system.version,
        "temperature_K": system.temperature,
        "engine": "batched torch force field, float32",
        "dynamics": f"Langevin middle scheme, {1000 * TIME_STEP:g} fs, {FRICTION:g}/ps",
        "walkers": route.walkers,
        "production_steps": route.steps,
        "production_ps_per_walker": len(route.kept()) * route.block_steps * TIME_STEP,
        "equilibration_ps_per_walker": route.equilibration * route.block_steps * TIME_STEP,
        "seed": route.seed,
        "bias": {
            "hills": route.deposits,
            "bias_factor": route.bias_factor,
            "width_rad": route.width,
            "fourier_order": route.bias.series.order,
        },
        "basins": _basins(system, groups),
        "standard_errors": f"bootstrap over {len(groups)} groups of {route.group} ps, {RESAMPLES} resamples",
        "discretisation": _discretisation(best, bins, raw.probability, scores, half_fits, raw_floor),
        "stationarity": _stationarity(system, groups),
        "versions": {"torch": torch.__version__.split("+")[0], "openmm": openmm.__version__, "numpy": np.__version__},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "checks": [],
    }
    write_atomically(folder / "reference.npz", content)
    write_atomically(folder / "reference.json", (json.dumps(record, indent=2) + "\n").encode())


def _basins(system: System, groups: Array) -> dict[str, dict[str, float]]:
    shares = basin_shares(system, groups)
    top = max(shares, key=lambda name: shares[name][0])
    return {
        name: {
            "population": value,
            "population_standard_error": error,
            "free_energy_kT": float(np.log(shares[top][0] / value)),
            "free_energy_standard_error_kT": error / value if name != top else 0.0,
        }
        for name, (value, error) in shares.items()
    }


def _discretisation(
    best: FourierFit, bins: int, raw: Array, scores: Mapping[int, float], halves_: Sequence[Array], raw_floor: float
) -> dict[str, Any]:
    """What the grid and the smoothing do to a forward KLD, measured."""
    fine = best.probability(4)
    coarse = fine.reshape(bins, 4, bins, 4).sum(axis=(1, 3))
    flat = np.repeat(np.repeat(coarse, 4, 0), 4, 1) / 16.0
    smooth = best.probability()
    return {
        "grid": f"{bins} x {bins} bins of {360 / bins:g} degrees; probability of each bin",
        "smoothing": f"maximum-likelihood Fourier series of ln p, order {best.order}, chosen on held-out halves",
        "held_out_kld_by_order": {str(order): score for order, score in scores.items()},
        "kld_of_histogram_from_smoothed": forward_kld(raw, smooth),
        "kld_expected_of_it_from_noise_alone": raw_floor - noise_floor(*halves_),
        "kld_lost_by_binning": forward_kld(fine, flat),
    }


def _stationarity(system: System, groups: Array, parts: int = 8) -> dict[str, list[float]]:
    """Population of each basin in successive eighths of the production."""
    pieces = [piece.sum(0) for piece in np.array_split(groups, min(parts, len(groups)))]
    return {
        basin.name: [round(PMF(system.cvs, p).population(basin_mask(system.cvs, basin.contains)), 6) for p in pieces]
        for basin in system.basins
    }


def read_checks(folder: Path) -> list[dict[str, Any]]:
    """Checks that the certificate lists."""
    return list(json.loads((folder / "reference.json").read_text(encoding="utf-8"))["checks"])


def write_checks(folder: Path, checks: Sequence[Check]) -> None:
    """Put checks into the certificate, in place of all of the same route (what comes before the first comma)."""
    path = folder / "reference.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    routes = {check.name.partition(",")[0] for check in checks}
    kept = [entry for entry in record["checks"] if entry["name"].partition(",")[0] not in routes]
    record["checks"] = kept + [
        {"name": check.name, "passed": bool(check.passed), "detail": check.detail} for check in checks
    ]
    write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())
