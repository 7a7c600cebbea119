"""Write the certified reference: the PMF with its errors and noise floor, and the checks with their numbers."""

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
from cgbench.errors import UserError
from cgbench.scoring.divergences import forward_kld
from cgbench.storage.files import npz_bytes, write_atomically
from cgbench_methods.lib.estimators.fourier_fit import FourierFit, choose_order, fit
from cgbench_systems.molecular.reference.biased import BiasedRoute
from cgbench_systems.molecular.reference.comparison import compare_halves
from cgbench_systems.molecular.reference.confirming.uncertainty import total_uncertainty
from cgbench_systems.molecular.reference.route import FRICTION, TIME_STEP, Array, Route, check_blocks
from cgbench_systems.molecular.reference.side_chains.bias import TorsionBias
from cgbench_systems.molecular.reference.statistics import (
    FEWEST_GROUPS,
    bootstrap,
    halves,
    log_ratio_error,
    noise_floor,
    ratio,
)

__all__ = [
    "ORDERS",
    "RESAMPLES",
    "certify",
    "check_entries",
    "region_facts",
    "sampling_facts",
    "versions_and_date",
    "write_checks",
    "write_cpu_time",
    "write_facts",
    "write_route",
]

ORDERS = (8, 10, 12, 14, 16, 18)  # candidates of the Fourier fit
RESAMPLES = 100  # of the bootstrap


def certify(
    route: BiasedRoute,
    folder: Path,
    facts: Mapping[str, Any],
    *,
    orders: Sequence[int] = ORDERS,
    resamples: int = RESAMPLES,
) -> None:
    """Write ``reference.npz`` and ``reference.json`` from the samples of the biased route.

    Parameters
    ----------
    route
        The biased route with its blocks.
    folder
        The system's reference folder.
    facts
        What the certificate says about the system: its force field, for example.
    orders
        Candidate orders of the Fourier fit, in rising order.
    resamples
        Number of bootstrap resamples.

    Raises
    ------
    UserError
        If there are too few blocks, the route never visited a basin, or the folder has a certificate of more steps.
    """
    check_blocks(route, len(route.blocks), folder)
    system, exposure = route.system, route.exposure()
    groups, successive = route.independent_groups(), route.successive_groups()
    basins = _basins(system, groups)
    whole, parts = groups.sum(0), halves(groups)
    raw_floor = noise_floor(*parts)
    if not raw_floor > 0:
        raise UserError(f"the halves of route {route.name} visited no bin in common: build more blocks (--blocks)")
    order, scores = choose_order(system.cvs, parts, exposure, orders)
    best = fit(system.cvs, whole, exposure, order)
    pmf = PMF(system.cvs, best.probability())
    half_fits = [fit(system.cvs, part, exposure, order, best).probability() for part in parts]
    draws = bootstrap(groups, lambda h: fit(system.cvs, h, exposure, order, best).probability(), resamples)
    raw = PMF(system.cvs, whole)
    arrays = pmf.arrays() | {
        "standard_error": draws.std(axis=0, ddof=1),
        "unsmoothed_probability": raw.probability,
    }
    content = npz_bytes(arrays)
    block_ps = route.block_steps * TIME_STEP
    kind = "walkers" if route.walker_groups > 1 else f"{route.group * block_ps:g} ps"
    bootstrapped = f"{len(groups)} groups of {kind}, {resamples} resamples"
    record: dict[str, Any] = {
        "source": f"{route.title}; {route.steps:.1e} steps of {route.walkers} walkers",
        "sha256": hashlib.sha256(content).hexdigest(),
        "noise_floor": noise_floor(*half_fits),
        "noise_floor_unsmoothed": raw_floor,
        "independent_samples": int((np.count_nonzero(whole) - 1) / (2 * raw_floor)),
        **facts,
        **sampling_facts(route),
        "sampling_cpu_seconds": {route.name: round(route.cpu_seconds)},
        "bias": {
            "hills": route.deposits,
            "bias_factor": route.bias_factor,
            "width_rad": route.width,
            "fourier_order": route.bias.series.order,
        },
        "basins": basins,
        "standard_errors": f"bootstrap over {bootstrapped}",
        "free_energy_errors": "scatter of the ratio to the largest basin over the same groups",
        "discretisation": _discretisation(best, raw.probability, scores, half_fits, raw_floor),
        "stationarity": _stationarity(system, successive),
        **versions_and_date(),
        "checks": check_entries(_halves_agree(route)),
    }
    if route.mixing is not None:
        names = route.torsions.names
        record["torsion_bias"] = {
            "bias_factor": TorsionBias.bias_factor,
            "width_rad": TorsionBias.width,
            "barriers_lowered_to_kT": TorsionBias.level,
        }
        record["side_torsions"] = route.mixing.facts(names)
        record["checks"] += check_entries(route.mixing.checks(names))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "reference.npz", content)
    _write(folder, record)


def sampling_facts(route: Route) -> dict[str, Any]:
    """Return what a certificate says about the system and about the sampling of a route."""
    block_ps = route.block_steps * TIME_STEP
    return {
        "system_version": route.system.version,
        "temperature_K": route.system.temperature,
        "engine": "OpenMM" if route.system.engine == "openmm" else "batched force field, float32",
        "dynamics": f"Langevin middle scheme, {1000 * TIME_STEP:g} fs, {FRICTION:g}/ps",
        "walkers": route.walkers,
        "production_steps": route.steps,
        "production_ps_per_walker": len(route.kept()) * block_ps,
        "equilibration_ps_per_walker": route.equilibration * block_ps,
        "seed": route.seed,
    }


def versions_and_date() -> dict[str, Any]:
    """Return the versions of the packages that a reference was made with, and today's date."""
    return {
        "versions": {"torch": torch.__version__.split("+")[0], "openmm": openmm.__version__, "numpy": np.__version__},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _basins(system: System, groups: Array) -> dict[str, dict[str, float]]:
    """Return population and free energy of each basin, with standard errors, from histograms of independent groups."""
    inside = {basin.name: groups[:, basin_mask(system.cvs, basin.contains)].sum(axis=1) for basin in system.basins}
    return region_facts(inside, groups.sum(axis=(1, 2)))


def region_facts(inside: Mapping[str, Array], total: Array) -> dict[str, dict[str, float]]:
    """Return population and free energy of regions, with standard errors.

    Free energies are relative to the most populated region.

    Parameters
    ----------
    inside
        Sums of the weights in each region, of independent groups ``[groups]``.
    total
        Sums of all weights ``[groups]``.

    Raises
    ------
    UserError
        If a region was never visited.
    """
    if empty := [name for name, sums in inside.items() if not sums.sum() > 0]:
        raise UserError(f"route biased never visited {', '.join(empty)}: build more blocks (--blocks)")
    top = max(inside, key=lambda name: float(inside[name].sum()), default="")
    facts = {}
    for name, sums in inside.items():
        population, error = ratio(sums, total)
        facts[name] = {
            "population": population,
            "population_standard_error": error,
            "free_energy_kT": float(np.log(inside[top].sum() / sums.sum())),
            "free_energy_standard_error_kT": log_ratio_error(sums, inside[top]) if name != top else 0.0,
        }
    return facts


def _discretisation(
    best: FourierFit, raw: Array, scores: Mapping[int, float], half_fits: Sequence[Array], raw_floor: float
) -> dict[str, Any]:
    """Return the forward KLDs that the grid and the smoothing cause."""
    first, second = raw.shape
    fine = best.probability(4)
    coarse = fine.reshape(first, 4, second, 4).sum(axis=(1, 3))
    flat = np.repeat(np.repeat(coarse, 4, 0), 4, 1) / 16.0
    smooth = best.probability()
    return {
        "grid": f"{first} x {second} bins of {360 / first:g} degrees; probability of each bin",
        "smoothing": f"maximum-likelihood Fourier series of ln p, order {best.order}, chosen on held-out halves",
        "held_out_kld_by_order": {str(order): score for order, score in scores.items()},
        "kld_of_histogram_from_smoothed": forward_kld(raw, smooth),
        "kld_expected_of_it_from_noise_alone": raw_floor - noise_floor(*half_fits),
        "kld_lost_by_binning": forward_kld(fine, flat),
    }


def _stationarity(system: System, groups: Array, parts: int = 8) -> dict[str, list[float]]:
    """Return the population of each basin in successive eighths of the production."""
    pieces = [piece.sum(0) for piece in np.array_split(groups, min(parts, len(groups)))]
    return {
        basin.name: [round(PMF(system.cvs, p).population(basin_mask(system.cvs, basin.contains)), 6) for p in pieces]
        for basin in system.basins
    }


def _halves_agree(route: BiasedRoute) -> list[Check]:
    """Compare the first and the second half of the production, where there are groups enough for errors of both."""
    first, second = route.halves_of_time()
    if min(len(first), len(second)) < FEWEST_GROUPS:
        return []
    return compare_halves(route.system, "production", first, second)


def write_checks(folder: Path, checks: Sequence[Check]) -> None:
    """Enter checks into the certificate, in place of earlier ones of the same route.

    The part of a check's name before its first comma identifies the route.
    """
    record = _read(folder)
    routes = {check.name.partition(",")[0] for check in checks}
    kept = [entry for entry in record["checks"] if entry["name"].partition(",")[0] not in routes]
    record["checks"] = kept + check_entries(checks)
    _write(folder, record)


def check_entries(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """Return checks as the certificate holds them."""
    return [{"name": check.name, "passed": bool(check.passed), "detail": check.detail} for check in checks]


def write_facts(folder: Path, *, new: bool = False, **facts: Any) -> None:
    """Enter facts into the certificate, in place of those of the same name; or write a `new` one."""
    _write(folder, facts if new else _read(folder) | facts)


def write_cpu_time(route: Route, folder: Path) -> None:
    """Enter the CPU time of a route that was compared."""
    known = _read(folder).get("sampling_cpu_seconds", {})
    write_facts(folder, sampling_cpu_seconds=known | {route.name: round(route.cpu_seconds)})


def write_route(folder: Path, name: str, facts: Mapping[str, Any]) -> None:
    """Enter what a route says about the basins, and the total uncertainty that follows from all routes so far."""
    record = _read(folder)
    routes = record.get("routes", {}) | {name: dict(facts)}
    write_facts(folder, routes=routes, uncertainty=total_uncertainty(record["basins"], routes))


def _read(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "reference.json").read_text(encoding="utf-8")))


def _write(folder: Path, record: Mapping[str, Any]) -> None:
    write_atomically(folder / "reference.json", (json.dumps(record, indent=2) + "\n").encode())
