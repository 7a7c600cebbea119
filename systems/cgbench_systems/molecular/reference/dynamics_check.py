"""Compare the dynamics of the batched force field with OpenMM: same start, same distributions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import openmm
import torch

from cgbench.contracts.system import Check, System
from cgbench.errors import UserError
from cgbench_methods.lib.sampling.langevin import BOLTZMANN, Langevin
from cgbench_systems.molecular.reference.route import FRICTION, TIME_STEP, Array

__all__ = ["compare_dynamics", "observables", "openmm_reduced_energies"]


def openmm_reduced_energies(system: System, openmm_system: openmm.System, x: torch.Tensor) -> Array:
    """Return reduced energies ``[batch]`` from OpenMM's Reference platform, in double precision."""
    integrator = openmm.VerletIntegrator(TIME_STEP)
    context = openmm.Context(openmm_system, integrator, openmm.Platform.getPlatformByName("Reference"))
    energies = []
    for positions in x.cpu().numpy():
        context.setPositions(positions)
        energies.append(context.getState(getEnergy=True).getPotentialEnergy()._value)
    return np.array(energies) / (BOLTZMANN * system.temperature)


def observables(system: System, x: torch.Tensor, reduced_energy: torch.Tensor, velocities: torch.Tensor) -> Array:
    """Return the observables that are compared, ``[batch, observables]``.

    These are the reduced potential and kinetic energy, the cosine and sine of each CV, and the mean square of the
    fine-grained coordinates in groups of 15.
    """
    assert system.masses is not None
    kt = BOLTZMANN * system.temperature
    kinetic = 0.5 * (system.masses.to(velocities)[:, None] * velocities**2).sum(dim=(1, 2)) / kt
    s, y, _ = system.coordinates.to_internal(x.double())
    columns = [reduced_energy, kinetic, *s.cos().T, *s.sin().T]
    columns += [part.square().mean(dim=1) for part in y.split(15, dim=1)]
    return torch.stack([column.double() for column in columns], dim=1).cpu().numpy()


def _openmm_endpoints(
    system: System, openmm_system: openmm.System, trajectories: int, steps: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    integrator = openmm.LangevinMiddleIntegrator(system.temperature, FRICTION, TIME_STEP)
    integrator.setRandomNumberSeed(seed)
    integrator.setConstraintTolerance(1e-8)
    context = openmm.Context(openmm_system, integrator, openmm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
    start = system.initial_configuration().cpu().numpy()
    kt = BOLTZMANN * system.temperature
    ends: list[list[Any]] = [[], [], []]  # positions, reduced energies, velocities
    for trajectory in range(trajectories):
        context.setPositions(start)
        context.setVelocitiesToTemperature(system.temperature, seed + 1 + trajectory)
        integrator.step(steps)
        state = context.getState(getPositions=True, getVelocities=True, getEnergy=True)
        ends[0].append(state.getPositions(asNumpy=True)._value.copy())
        ends[1].append(state.getPotentialEnergy()._value / kt)
        ends[2].append(state.getVelocities(asNumpy=True)._value.copy())
    positions, energies, velocities = (torch.from_numpy(np.array(part)) for part in ends)
    return positions, energies, velocities


def _batched_endpoints(
    system: System, trajectories: int, steps: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    assert system.masses is not None
    start = system.initial_configuration()[None].repeat(trajectories, 1, 1).float()
    dynamics = Langevin(
        system.reduced_energy_and_gradient,
        system.masses.to(system.device),
        system.temperature,
        time_step=TIME_STEP,
        friction=FRICTION,
        positions=start,
        generator=torch.Generator(device=system.device).manual_seed(seed),
    )
    dynamics.step(steps)
    energy, _ = system.reduced_energy_and_gradient(dynamics.positions)
    return dynamics.positions, energy, dynamics.velocities


def compare_dynamics(
    system: System,
    openmm_system: openmm.System,
    *,
    trajectories: int = 400,
    batched: int = 20_000,
    steps: tuple[int, ...] = (100, 500),
    seed: int = 0,
    log: Callable[[str], None] = lambda text: None,
) -> list[Check]:
    """Compare the ends of short trajectories of both engines from one minimum.

    The ensemble of many trajectories after a fraction of a picosecond depends on the forces, masses, friction, time
    step and temperature. Every observable must agree within four standard errors.

    Parameters
    ----------
    system, openmm_system
        The molecule, and the same as an ``openmm.System``.
    trajectories, batched
        Number of trajectories with OpenMM (one after the other) and with the batched force field.
    steps
        Lengths of the trajectories, each with its own check.
    seed
        Seed of velocities and noise.
    log
        Called with one line per check.
    """
    if trajectories < 2:
        raise UserError(f"route openmm needs at least 2 trajectories (--blocks), not {trajectories}")
    checks = []
    for count in steps:
        slow = observables(system, *_openmm_endpoints(system, openmm_system, trajectories, count, seed))
        fast = observables(system, *_batched_endpoints(system, batched, count, seed))
        error = np.sqrt(slow.var(0, ddof=1) / len(slow) + fast.var(0, ddof=1) / len(fast))
        z = (fast.mean(0) - slow.mean(0)) / error
        energies = f"mean potential energy {fast[:, 0].mean():.3f} and {slow[:, 0].mean():.3f} +- {error[0]:.3f} kT"
        checks.append(
            Check(
                f"OpenMM dynamics, {count} steps",
                bool(np.abs(z).max() < 4.0),
                f"{trajectories} trajectories, {z.size} observables, largest |z| {np.abs(z).max():.2f}; {energies}",
            )
        )
        log(f"openmm: {checks[-1].detail}")
    return checks
