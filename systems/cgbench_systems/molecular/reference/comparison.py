"""Compare independent estimates of a PMF with a certified reference, within the errors of both."""

from __future__ import annotations

import numpy as np

from cgbench.contracts.pmf import basin_mask
from cgbench.contracts.reference import Reference
from cgbench.contracts.system import Check, System
from cgbench.scoring.divergences import forward_kld
from cgbench_systems.molecular.reference.route import Array
from cgbench_systems.molecular.reference.statistics import share

__all__ = ["compare_estimate", "compare_halves"]

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
        difference = value - certified["population"]
        z = difference / max(float(np.hypot(error, certified["population_standard_error"])), 1e-300)
        checks.append(
            Check(
                f"{name}: population of {basin.name}",
                bool(abs(z) < LIMIT),
                f"{value:.5f} +- {error:.5f}, certified {certified['population']:.5f}, z = {z:+.1f}",
            )
        )
    # if both are right, the divergence between them comes from their noise alone
    p = reference.pmf.probability
    estimate = whole / whole.sum()
    seen = estimate > 0
    noise = _expected_divergence(p, parts, seen)
    found = forward_kld(p[seen], estimate[seen])
    checks.append(
        Check(
            f"{name}: divergence",
            bool(found < NOISE_FACTOR * (noise + reference.noise_floor)),
            f"forward KLD {found:.2e} over {seen.mean():.1%} of the bins, "
            f"{noise:.2e} expected from the route's noise and {reference.noise_floor:.1e} from the reference's",
        )
    )
    return checks


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
        (before, error), (after, its_error) = share(first, mask), share(second, mask)
        z = (after - before) / max(float(np.hypot(error, its_error)), 1e-300)
        checks.append(
            Check(
                f"{name}: halves agree on {basin.name}",
                bool(abs(z) < LIMIT),
                f"{before:.5f} +- {error:.5f}, then {after:.5f} +- {its_error:.5f}, z = {z:+.1f}",
            )
        )
    return checks


def _expected_divergence(p: Array, parts: Array, seen: np.ndarray) -> float:
    """Return the forward KLD that the scatter between parts predicts for their sum: half of chi-square."""
    total = parts.sum(axis=0)
    weights = parts.sum(axis=(1, 2))
    mean = total / total.sum()
    residual = parts - mean * weights[:, None, None]
    variance = residual.var(axis=0, ddof=1) * len(parts) / total.sum() ** 2
    return float(0.5 * (variance[seen] / np.maximum(p[seen], 1e-300)).sum())
