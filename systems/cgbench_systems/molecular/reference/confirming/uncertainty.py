"""What all routes say about the free energies of the basins: differences from the reference, variance, possible bias.

For each basin, with the free energy relative to the most populated one, a route gives the difference from the reference
``d`` with the standard error ``e`` of both. A Langevin route with r times the reference's time step has r^2 times its
error, if the error is of second order: ``d = (r^2 - 1) b`` with b the bias of the reference. Routes without a time step
have ``d = -b``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cgbench.contracts.pmf import basin_mask
from cgbench.contracts.system import Check, System
from cgbench_systems.molecular.reference.route import Array
from cgbench_systems.molecular.reference.statistics import log_ratio_error

__all__ = ["basin_checks", "basin_differences", "total_uncertainty"]

LIMIT = 3.0  # standard errors
CONFIDENCE = 1.96  # standard errors on each side


def basin_differences(system: System, basins: Mapping[str, Any], groups: Array) -> dict[str, dict[str, float]]:
    """Return differences in free energy between a route and the certificate, per basin.

    Parameters
    ----------
    system
        The molecule.
    basins
        The basins of the certificate.
    groups
        Histograms of independent groups of the route's samples ``[groups, bins, bins]``.

    Returns
    -------
    dict
        For each basin that was visited, but the most populated: ``difference_kT``, route minus certificate; its
        ``standard_error_kT``, which contains that of the certificate (delta method for the logarithm of a ratio);
        ``z``.
    """
    inside = {basin.name: groups[:, basin_mask(system.cvs, basin.contains)].sum(axis=1) for basin in system.basins}
    top = max(basins, key=lambda name: basins[name]["population"])
    found = {}
    for name, own in inside.items():
        if name == top:
            continue
        mine, highest = own.sum(), inside[top].sum()
        if not (mine > 0 and highest > 0):
            continue
        certified = basins[name]["free_energy_standard_error_kT"]
        error = float(np.hypot(log_ratio_error(own, inside[top]), certified))
        difference = float(np.log(highest / mine) - basins[name]["free_energy_kT"])
        found[name] = {"difference_kT": difference, "standard_error_kT": error, "z": difference / error}
    return found


def basin_checks(name: str, differences: Mapping[str, Mapping[str, float]]) -> list[Check]:
    """Return one check per basin: the difference in free energy within three standard errors."""
    return [
        Check(
            f"{name}: free energy of {basin}",
            bool(abs(one["z"]) < LIMIT),
            f"{one['difference_kT']:+.4f} +- {one['standard_error_kT']:.4f} kT from the certificate, "
            f"z = {one['z']:+.1f}",
        )
        for basin, one in differences.items()
    ]


def total_uncertainty(basins: Mapping[str, Any], routes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the total uncertainty of each basin's free energy: variance and possible bias.

    Parameters
    ----------
    basins
        The basins of the certificate.
    routes
        For each route its ``basins`` as from `basin_differences`, and ``bias_per_difference``: the bias of the
        reference that a difference of one means, 1 / (r^2 - 1) for a time step r times the reference's, -1 for routes
        without a time step; None for routes that share step and integrator with the reference.

    Returns
    -------
    dict
        For each basin: ``standard_error_kT`` of the certificate; ``largest_difference_kT`` between a route and the
        certificate, beyond 1.96 standard errors (zero where all agree), and ``of_route``; ``bias_kT`` with
        ``bias_standard_error_kT``, the estimate of the bias of the reference by the route that knows it best,
        ``by_route``; ``bias_bound_kT``, the largest absolute bias within 1.96 standard errors of that estimate.
    """
    found: dict[str, dict[str, Any]] = {}
    for basin in {name: None for route in routes.values() for name in route["basins"]}:
        known = {name: route["basins"][basin] for name, route in routes.items() if basin in route["basins"]}
        beyond = {
            name: max(0.0, abs(one["difference_kT"]) - CONFIDENCE * one["standard_error_kT"])
            for name, one in known.items()
        }
        entry: dict[str, Any] = {"standard_error_kT": basins[basin]["free_energy_standard_error_kT"]}
        worst = max(beyond, key=lambda name: beyond[name])
        entry |= {"largest_difference_kT": beyond[worst], "of_route": worst if beyond[worst] > 0 else None}
        biases = {
            name: (factor * one["difference_kT"], abs(factor) * one["standard_error_kT"])
            for name, one in known.items()
            if (factor := routes[name]["bias_per_difference"]) is not None
        }
        if biases:
            best = min(biases, key=lambda name: biases[name][1])
            bias, error = biases[best]
            entry |= {
                "bias_kT": bias,
                "bias_standard_error_kT": error,
                "by_route": best,
                "bias_bound_kT": abs(bias) + CONFIDENCE * error,
            }
        found[basin] = entry
    return found
