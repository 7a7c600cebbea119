"""The certificate of a reference of several maps, and the comparison of other estimates with it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cgbench.contracts.maps import Estimate
from cgbench.contracts.pmf import PMF, basin_mask
from cgbench.contracts.reference import Reference
from cgbench.contracts.system import Check, System, maps_of
from cgbench.errors import UserError
from cgbench.scoring.divergences import forward_kld
from cgbench.storage.files import npz_bytes, write_atomically
from cgbench_methods.lib.estimators.fourier_fit import choose_order, fit
from cgbench_systems.molecular.reference.certificate import (
    check_entries,
    region_facts,
    sampling_facts,
    versions_and_date,
    write_facts,
)
from cgbench_systems.molecular.reference.comparison import divergence_check, halves_check, population_check
from cgbench_systems.molecular.reference.route import Array, check_blocks
from cgbench_systems.molecular.reference.several_maps.routes import BiasedMaps, Layout
from cgbench_systems.molecular.reference.statistics import bootstrap, halves, noise_floor, ratio

__all__ = ["certify_maps", "compare_rows"]


def certify_maps(
    route: BiasedMaps,
    folder: Path,
    facts: Mapping[str, Any],
    *,
    orders: Mapping[int, Sequence[int]],
    resamples: int,
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
        Candidate orders of the Fourier fit in rising order, by number of CVs of the map.
    resamples
        Number of bootstrap resamples.

    Raises
    ------
    UserError
        If there are too few blocks, the route never visited a basin or state, or the folder has a certificate of more
        steps.
    """
    check_blocks(route, len(route.blocks), folder)
    system, layout = route.system, route.layout
    groups = route.kept().sum(axis=0)
    pmfs: list[PMF] = []
    arrays: dict[str, Array] = {}
    fits: list[dict[str, Any]] = []
    for number, one in enumerate(layout.maps):
        pmf, more, fitted = _certify_map(route, groups, number, orders, resamples)
        pmfs.append(pmf)
        arrays |= {f"map_{number}_{name}" if number else name: values for name, values in more.items()}
        fits.append({"map": one.name, **fitted})
    content = npz_bytes(Estimate(tuple(pmfs)).arrays() | arrays)
    assert route.mixing is not None
    record: dict[str, Any] = {
        "source": f"{route.title}; {route.steps:.1e} steps of {route.walkers} walkers",
        "sha256": hashlib.sha256(content).hexdigest(),
        "noise_floor": float(np.mean([one["noise_floor"] for one in fits])),
        **facts,
        **sampling_facts(route),
        "bias": {
            "torsions": [[route.names[k] for k in one] for one in route.bias.sets],
            "combined": "mixture",
            "hills": route.deposits,
            "bias_factor": route.bias.bias_factor,
            "width_rad": route.bias.width,
            "effective_share_of_samples": _effective_share(route),
        },
        "maps": fits,
        "basins": _regions(system, layout, groups),
        "standard_errors": f"bootstrap over {len(groups)} groups of walkers, {resamples} resamples",
        "free_energy_errors": "scatter of the ratio to the largest region over the same groups",
        "stationarity": _stationarity(system, layout, route.kept().sum(axis=1)),
        "torsions": [
            {name: value for name, value in one.items() if name != "free_energy_kT"}
            for one in route.mixing.facts(route.names)
        ],
        **versions_and_date(),
        "checks": check_entries([*route.mixing.checks(route.names), *_halves_agree(system, layout, route.kept())]),
    }
    if layout.states is not None:
        record["states"] = _states(layout, groups)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "reference.npz", content)
    write_facts(folder, new=True, **record)


def _certify_map(
    route: BiasedMaps, groups: Array, number: int, orders: Mapping[int, Sequence[int]], resamples: int
) -> tuple[PMF, dict[str, Array], dict[str, Any]]:
    """Return the smooth PMF of one map, its further arrays, and facts about the fit."""
    cvs = route.layout.maps[number].cvs
    rows, exposure = route.layout.map(groups, number), route.exposure(number)
    whole, parts = rows.sum(0), halves(rows)
    raw_floor = noise_floor(*parts)
    if not raw_floor > 0:
        raise UserError(f"the halves of route {route.name} visited no bin in common: build more blocks (--blocks)")
    order, scores = choose_order(cvs, parts, exposure, orders[len(cvs)])
    best = fit(cvs, whole, exposure, order)
    half_fits = [fit(cvs, part, exposure, order, best).probability() for part in parts]
    draws = bootstrap(rows, lambda h: fit(cvs, h, exposure, order, best).probability(), resamples)
    pmf, raw = PMF(cvs, best.probability()), PMF(cvs, whole)
    arrays = {"standard_error": draws.std(axis=0, ddof=1), "unsmoothed_probability": raw.probability}
    facts = {
        "noise_floor": noise_floor(*half_fits),
        "noise_floor_unsmoothed": raw_floor,
        "order": order,
        "held_out_kld_by_order": {str(one): score for one, score in scores.items()},
        "kld_of_histogram_from_smoothed": forward_kld(raw.probability, pmf.probability),
        "kld_expected_of_it_from_noise_alone": raw_floor - noise_floor(*half_fits),
    }
    return pmf, arrays, facts


def _effective_share(route: BiasedMaps) -> float:
    first, second = (route.layout.state_sums(one).sum() for one in route.moments)
    samples = len(route.kept()) * (route.block_steps // route.stride) * route.walkers
    return float(first**2 / (second * samples))


def _shares(system: System, layout: Layout, groups: Array) -> dict[str, tuple[float, float]]:
    """Return the populations of basins and states with their errors, from rows of independent groups."""
    found = {}
    for basin in system.basins:
        rows = layout.map(groups, basin.map)
        mask = basin_mask(layout.maps[basin.map].cvs, basin.contains)
        found[basin.name] = ratio(rows[:, mask].sum(axis=1), rows.reshape(len(rows), -1).sum(axis=1))
    if layout.states is not None:
        sums = layout.state_sums(groups)
        for number, name in enumerate(layout.states.names):
            found[name] = ratio(sums[:, number], sums.sum(axis=1))
    return found


def _regions(system: System, layout: Layout, groups: Array) -> dict[str, dict[str, float]]:
    """Return populations and free energies of the basins; the latter are relative to the largest in the same map."""
    facts: dict[str, dict[str, float]] = {}
    for number, one in enumerate(layout.maps):
        rows = layout.map(groups, number)
        masks = {b.name: basin_mask(one.cvs, b.contains) for b in system.basins if b.map == number}
        inside = {name: rows[:, mask].sum(axis=1) for name, mask in masks.items()}
        facts |= region_facts(inside, rows.reshape(len(rows), -1).sum(axis=1))
    return {basin.name: facts[basin.name] for basin in system.basins}


def _states(layout: Layout, groups: Array) -> dict[str, dict[str, float]]:
    assert layout.states is not None
    sums = layout.state_sums(groups)  # the last column is of samples in no state
    inside = {name: sums[:, number] for number, name in enumerate(layout.states.names)}
    return region_facts(inside, sums.sum(axis=1))


def _stationarity(system: System, layout: Layout, blocks: Array, parts: int = 8) -> dict[str, list[float]]:
    """Return the population of each basin and state in successive eighths of the production."""
    pieces = [piece for piece in np.array_split(blocks, min(parts, len(blocks)))]
    shares = [_shares(system, layout, np.array([piece.sum(0), piece.sum(0)])) for piece in pieces]
    return {name: [round(one[name][0], 6) for one in shares] for name in shares[0]}


def _halves_agree(system: System, layout: Layout, kept: Array) -> list[Check]:
    """Compare the first and the second half of the production, ``kept`` of shape ``[blocks, groups, size]``.

    The groups are independent, but all relax from the same distribution of starts. Their scatter does not show that.
    """
    middle = len(kept) // 2
    first, second = (_shares(system, layout, part.sum(axis=0)) for part in (kept[:middle], kept[middle:]))
    return [halves_check("production", region, first[region], second[region]) for region in first]


def compare_rows(system: System, reference: Reference, name: str, groups: Array, walkers: int) -> list[Check]:
    """Compare an independent estimate with a reference: populations of basins and states, and each map's divergence.

    Parameters
    ----------
    system, reference
        The molecule and its certified reference.
    name
        Name of the estimate in the checks.
    groups
        Rows (`Layout`) of independent groups ``[groups, size]``.
    walkers
        Number of independent walkers. The error of a population is at least that of drawing so many starts, which the
        scatter between groups hides where few walkers are in a region.
    """
    layout = Layout(system)
    certified = {**reference.details["basins"], **reference.details.get("states", {})}
    checks = []
    for region, (value, error) in _shares(system, layout, groups).items():
        known = certified[region]
        spread = float(np.hypot(error, known["population_standard_error"]))
        spread = max(spread, float(np.sqrt(known["population"] * (1 - known["population"]) / walkers)))
        checks.append(population_check(name, region, value, error, known["population"], spread))
    for number, (one, true) in enumerate(zip(maps_of(system), reference.maps, strict=True)):
        parts, p = layout.map(groups, number), true.pmf.probability
        checks.append(divergence_check(f"{name}: divergence of {one.name}", p, parts.sum(axis=0), parts, reference))
    return checks
