"""Verify a certified reference of several maps by a few minutes of unbiased sampling from its configurations."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from cgbench.contracts.reference import Reference
from cgbench.contracts.system import Check, System
from cgbench.errors import UserError
from cgbench_methods.lib.sampling.langevin import Langevin
from cgbench_systems.molecular.reference.route import FRICTION, TIME_STEP
from cgbench_systems.molecular.reference.several_maps.certificate import compare_rows
from cgbench_systems.molecular.reference.several_maps.routes import Layout, histogram_rows
from cgbench_systems.molecular.reference.verify import compare_energies

__all__ = ["MapsSampling", "verify_maps"]

LIMIT = 4.5  # standard errors


@dataclass(frozen=True)
class MapsSampling:
    """Amount of sampling of a verification.

    Attributes
    ----------
    steps, stride
        Steps of every walker, and between two samples.
    groups
        Groups of walkers for errors.
    seconds, least
        Sampling ends early when `seconds` have passed since the start, but not before `least` steps.
    compile
        Whether to compile the energy.
    """

    steps: int = 20_000
    stride: int = 10
    groups: int = 16
    seconds: float = 240.0
    least: int = 1000
    compile: bool = True


def verify_maps(
    system: System,
    reference: Reference,
    start: torch.Tensor | None,
    sampling: MapsSampling,
    seed: int = 0,
    log: Callable[[str], None] = print,
) -> list[Check]:
    """Compare a reference with unbiased MD from its equilibrium configurations, which it leaves as they are.

    Parameters
    ----------
    system, reference
        The molecule and its certified reference.
    start
        The equilibrium configurations beside the reference ``[walkers, atoms, 3]``, or None without any.
    sampling
        Amount of sampling.
    seed
        Seed of the dynamics.
    log
        Called with one line about the sampling.

    Returns
    -------
    list of Check
        Energies of fixed configurations, state space, populations of basins and states, divergence of each map, mean
        energy.

    Raises
    ------
    UserError
        If there are no equilibrium configurations beside the reference.
    """
    began = time.monotonic()
    if start is None:
        raise UserError(f"{system.name} has no samples.npz beside its reference: certify the reference again")
    if sampling.compile:
        system.compile()
    assert system.masses is not None
    dynamics = Langevin(
        system.reduced_energy_and_gradient,
        system.masses.to(system.device),
        system.temperature,
        time_step=TIME_STEP,
        friction=FRICTION,
        positions=start.to(system.device).float(),
        generator=torch.Generator(device=system.device).manual_seed(seed),
    )
    layout, walkers = Layout(system), len(start)
    rows = np.zeros((sampling.groups, layout.size))
    energy, done = np.zeros(walkers), 0
    while done < sampling.least or (done < sampling.steps and time.monotonic() - began < sampling.seconds):
        dynamics.step(sampling.stride)
        done += sampling.stride
        s = system.collective_variables(dynamics.positions).double().cpu().numpy()
        rows += histogram_rows(layout, s, np.ones(walkers), sampling.groups)
        energy += dynamics.energies.double().cpu().numpy()
    log(f"sampled {walkers} walkers for {done} steps in {time.monotonic() - began:.0f} s, with preparation")
    inside = system.coordinates.in_state_space(dynamics.positions)
    fixed = reference.details.get("fixed_configurations")
    checks = [compare_energies(system, fixed)] if fixed is not None else []
    checks.append(
        Check("state space", bool(inside.all()), f"{int((~inside).sum())} of {len(inside)} walkers are outside")
    )
    checks += compare_rows(system, reference, "new sampling", rows, walkers)
    certified = reference.details.get("mean_reduced_energy")
    if certified is not None:
        means = energy * sampling.stride / done
        spread = float(np.hypot(means.std(ddof=1) / np.sqrt(walkers), certified["standard_error"]))
        z = (means.mean() - certified["value"]) / spread
        checks.append(
            Check(
                "mean energy",
                bool(abs(z) < LIMIT),
                f"{means.mean():.3f} +- {spread:.3f} kT, certified {certified['value']:.3f}, z = {z:+.1f}",
            )
        )
    return checks
