"""Compare independent estimates of a PMF with a certified reference, within the errors of both."""

from __future__ import annotations

import math

import numpy as np

from cgbench.contracts.pmf import basin_mask
from cgbench.contracts.reference import Reference
from cgbench.contracts.system import Check, System
from cgbench.scoring.divergences import forward_kld
from cgbench_systems.molecular.reference.route import Array
from cgbench_systems.molecular.reference.statistics import expected_divergence, share

__all__ = ["compare_estimate", "compare_halves", "divergence_check", "halves_check", "population_check"]

LIMIT = 4.0  # standard errors
NOISE_FACTOR = 1.5  # by which a divergence may exceed the expected one


def compare_estimate(system: System, reference: Reference, name: str, whole: Array, parts: Array) -> list[Check]:
    """Compare an independent estimate with a reference: the population of each basin, and the divergence.

    Parameters
    ----------
    system, reference
        The molecule and its certified reference.
    name
        Name of the estimate in the checks.
    whole, parts
        Histogram ``[bins, bins]`` of the estimate, and those of its independent parts ``[parts, bins, bins]``.
    """
    checks = []
    basins = reference.details["basins"]
    for basin in system.basins:
        value, error = share(parts, basin_mask(system.cvs, basin.contains))
        certified = basins[basin.name]
        spread = float(np.hypot(error, certified["population_standard_error"]))
        checks.append(population_check(name, basin.name, value, error, certified["population"], spread))
    checks.append(divergence_check(f"{name}: divergence", reference.pmf.probability, whole, parts, reference))
    return checks


def population_check(name: str, region: str, value: float, error: float, known: float, spread: float) -> Check:
    """Compare the population of a region, with its standard error, with the certified one.

    Parameters
    ----------
    name, region
        Names of the estimate and of the region.
    value, error
        Population and standard error of the estimate.
    known, spread
        Certified population, and the standard error of the difference.
    """
    z = (value - known) / max(spread, 1e-300)
    detail = f"{value:.5f} +- {error:.5f}, certified {known:.5f}, z = {z:+.1f}"
    return Check(f"{name}: population of {region}", bool(abs(z) < LIMIT), detail)


def divergence_check(name: str, p: Array, whole: Array, parts: Array, reference: Reference) -> Check:
    """Compare the divergence of an estimate from a reference with that which their noise explains.

    The divergence over the bins that the estimate has visited says nothing about the others. With n independent samples
    in all, a bin of probability p stays without any with probability exp(-n p); what is missing beyond the sum of these
    counts as divergence, too.

    Parameters
    ----------
    name
        Name of the check.
    p
        The certified probabilities.
    whole, parts
        Histogram of the estimate, and those of its independent parts ``[parts, *bins]``.
    reference
        The certified reference, for its noise floor.
    """
    estimate = whole / whole.sum()
    seen = estimate > 0
    noise = expected_divergence(p, parts, seen)
    found = forward_kld(p[seen], estimate[seen])
    missing = float(p[~seen].sum() / p.sum())
    independent = seen.sum() / (2.0 * noise) if noise > 0 else math.inf
    unvisited = float((p * np.exp(-independent * p)).sum() / p.sum())
    return Check(
        name,
        bool(found - math.log1p(-missing) < NOISE_FACTOR * (noise + reference.noise_floor + unvisited)),
        f"forward KLD {found:.2e} over {seen.mean():.1%} of the bins, "
        f"{noise:.2e} expected from the route's noise and {reference.noise_floor:.1e} from the reference's; "
        f"{missing:.1e} of the probability in the other bins, {unvisited:.1e} expected",
    )


def compare_halves(system: System, name: str, first: Array, second: Array) -> list[Check]:
    """Compare the two halves of a route: populations that still drift are not those of equilibrium.

    Parts that share a slow relaxation agree with each other, so their scatter does not show it.

    Parameters
    ----------
    system
        The molecule.
    name
        Name of the estimate in the checks.
    first, second
        Histograms of the independent parts ``[parts, bins, bins]`` over the first and the second half of the time.
    """
    checks = []
    for basin in system.basins:
        mask = basin_mask(system.cvs, basin.contains)
        checks.append(halves_check(name, basin.name, share(first, mask), share(second, mask)))
    return checks


def halves_check(name: str, region: str, first: tuple[float, float], second: tuple[float, float]) -> Check:
    """Compare the population of a region, with its standard error, in the two halves of a route."""
    (before, error), (after, its_error) = first, second
    z = (after - before) / max(float(np.hypot(error, its_error)), 1e-300)
    return Check(
        f"{name}: halves agree on {region}",
        bool(abs(z) < LIMIT),
        f"{before:.5f} +- {error:.5f}, then {after:.5f} +- {its_error:.5f}, z = {z:+.1f}",
    )
