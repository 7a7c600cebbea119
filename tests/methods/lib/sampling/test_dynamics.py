"""Samplers against harmonic oscillators and closed forms."""

from __future__ import annotations

import math

import numpy as np
import openmm
import pytest
import torch
from openmm import unit
from scipy import stats

from cgbench_methods.lib.sampling.langevin import BOLTZMANN, Langevin
from cgbench_methods.lib.sampling.metropolis import Metropolis

TEMPERATURE = 300.0
STIFFNESS = 2.0e4  # kJ/(mol nm^2)
MASS = 12.0


def oscillator(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    k = STIFFNESS / (BOLTZMANN * TEMPERATURE)
    return 0.5 * k * (x * x).flatten(1).sum(1), k * x


def langevin(walkers: int, time_step: float, generator: torch.Generator, friction: float = 20.0) -> Langevin:
    return Langevin(
        oscillator,
        torch.full((4,), MASS, dtype=torch.float64),
        TEMPERATURE,
        time_step=time_step,
        friction=friction,
        positions=torch.zeros(walkers, 4, 3, dtype=torch.float64),
        generator=generator,
    )


def test_langevin_samples_the_oscillator_exactly_at_a_large_step(generator) -> None:
    """The middle scheme's configurational variance is kT/k at any stable step: here half of the limit."""
    frequency = math.sqrt(STIFFNESS / MASS)  # per ps
    dynamics = langevin(4000, 1.0 / frequency, generator)
    dynamics.step(500)
    squares = (dynamics.positions**2).flatten().numpy() * STIFFNESS / (BOLTZMANN * TEMPERATURE)
    error = math.sqrt(2.0 / len(squares))
    assert squares.mean() == pytest.approx(1.0, abs=4 * error)
    flat = dynamics.positions.flatten().numpy() * math.sqrt(STIFFNESS / (BOLTZMANN * TEMPERATURE))
    assert stats.kstest(flat, "norm").pvalue > 1e-3


def test_langevin_velocities_are_thermal(generator) -> None:
    dynamics = langevin(4000, 0.0005, generator)
    dynamics.step(300)
    kinetic = (dynamics.velocities**2).mean() * MASS / (BOLTZMANN * TEMPERATURE)
    assert float(kinetic) == pytest.approx(1.0, abs=0.02)


def test_langevin_without_friction_follows_openmm(generator) -> None:
    """Without friction the scheme is deterministic: the trajectory is that of OpenMM's integrator."""
    dynamics = langevin(1, 0.001, generator, friction=0.0)
    dynamics.positions = 0.01 * torch.randn(1, 4, 3, generator=generator, dtype=torch.float64)
    system = openmm.System()
    force = openmm.CustomExternalForce(f"0.5*{STIFFNESS}*(x^2+y^2+z^2)")
    for index in range(4):
        system.addParticle(MASS)
        force.addParticle(index, [])
    system.addForce(force)
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, 0.0, 0.001)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(dynamics.positions[0].numpy())
    context.setVelocities(dynamics.velocities[0].numpy())
    dynamics.step(100)
    integrator.step(100)
    theirs = context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    np.testing.assert_allclose(dynamics.positions[0].numpy(), theirs, atol=1e-10)


def test_langevin_counts_one_evaluation_a_step(generator) -> None:
    calls = []

    def counting(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(x))
        return oscillator(x)

    dynamics = langevin(7, 0.001, generator)
    dynamics.energy_and_gradient = counting
    dynamics.step(11)
    assert sum(calls) == 77


def test_metropolis_samples_a_double_well(generator) -> None:
    def energy(x: torch.Tensor) -> torch.Tensor:
        return (2.0 * (x[:, 0] ** 2 - 1.0) ** 2) + 0.3 * x[:, 0]

    sampler = Metropolis(energy, torch.zeros(20_000, 1, dtype=torch.float64), 0.8, generator)
    sampler.step(200)
    grid = np.linspace(-4, 4, 8001)
    density = np.exp(-energy(torch.from_numpy(grid)[:, None]).numpy())
    cdf = np.cumsum(density) / density.sum()
    assert stats.kstest(sampler.positions[:, 0].numpy(), lambda v: np.interp(v, grid, cdf)).pvalue > 1e-3
    assert 0.2 < sampler.accepted < 0.9


def test_replaced_walkers_have_new_thermal_velocities(generator) -> None:
    dynamics = langevin(4000, 0.0005, generator)
    dynamics.set_temperatures(torch.linspace(1.0, 1.0, 4000, dtype=torch.float64) * 2.0)
    dynamics.step(10)
    before = dynamics.positions, dynamics.velocities
    chosen = torch.arange(4000) % 2 == 0
    other = torch.full((4000, 4, 3), 0.01, dtype=torch.float32)  # in another precision
    dynamics.replace(chosen, other, oscillator(other)[0])
    assert dynamics.positions.dtype == torch.float64
    assert torch.equal(dynamics.positions[~chosen], before[0][~chosen])
    assert torch.equal(dynamics.velocities[~chosen], before[1][~chosen])
    assert torch.allclose(dynamics.positions[chosen], other[chosen].double())
    kinetic = (dynamics.velocities[chosen] ** 2).mean() * MASS / (BOLTZMANN * TEMPERATURE)
    assert float(kinetic) == pytest.approx(2.0, abs=0.06)
    assert not dynamics.restore_diverged().any()
    assert torch.allclose(dynamics.positions[chosen], other[chosen].double())


def test_a_replaced_metropolis_walker_has_the_new_energy(generator) -> None:
    sampler = Metropolis(lambda x: (x * x).sum(1), torch.zeros(4, 1), 1e-3, generator)
    chosen = torch.tensor([True, False, False, True])
    other = torch.full((4, 1), 3.0)
    sampler.replace(chosen, other, (other * other).sum(1))  # before the first step
    sampler.step()
    sampler.replace(~chosen, -other, (other * other).sum(1))
    assert sampler.energies is not None
    assert torch.equal(sampler.positions[~chosen], -other[~chosen])
    assert torch.allclose(sampler.energies, torch.full((4,), 9.0), atol=0.1)


def test_restored_states_continue_identically(generator) -> None:
    for make in (
        lambda g: langevin(5, 0.001, g),
        lambda g: Metropolis(lambda x: (x**2).sum(1), torch.zeros(5, 2, dtype=torch.float64), 0.5, g),
    ):
        first, second = torch.Generator().manual_seed(5), torch.Generator().manual_seed(6)
        one, other = make(first), make(second)
        one.step(10)
        other.load_state_dict(one.state_dict())
        second.set_state(first.get_state())
        one.step(10)
        other.step(10)
        assert torch.equal(one.positions, other.positions)
