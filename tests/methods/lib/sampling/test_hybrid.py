"""Hybrid Monte Carlo is exact at any time step; the error of Langevin dynamics is of second order in it."""

from __future__ import annotations

import numpy as np
import torch

from cgbench_methods.lib.sampling.hybrid import HybridMonteCarlo
from cgbench_methods.lib.sampling.langevin import BOLTZMANN, Langevin

TEMPERATURE = 1.0 / BOLTZMANN  # kT = 1 kJ/mol, so that reduced units are those of the energy
WALKERS = 100_000
MASS = torch.ones(1, dtype=torch.float64)


def anharmonic(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (x.square() / 2 + 2 * x.cos()).sum(dim=(1, 2)), x - 2 * x.sin()


def harmonic(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.square().sum(dim=(1, 2)) / 2, x


def exact_second_moment() -> float:
    x = np.linspace(-9, 9, 20_001)
    weight = np.exp(-(x**2) / 2 - 2 * np.cos(x))
    return float((x**2 * weight).sum() / weight.sum())


def starts(seed: int) -> tuple[torch.Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(WALKERS, 1, 3, generator=generator, dtype=torch.float64), generator


def langevin_error(time_step: float, seed: int) -> tuple[float, float]:
    """Error of <x^2> and its standard error."""
    x, generator = starts(seed)
    dynamics = Langevin(
        anharmonic, MASS, TEMPERATURE, time_step=time_step, friction=0.3, positions=x, generator=generator
    )
    dynamics.step(int(20 / time_step))
    sums = torch.zeros(WALKERS, dtype=torch.float64)
    for _ in range(24):
        dynamics.step(int(2.5 / time_step))
        sums += dynamics.positions.square().mean(dim=(1, 2)) / 24
    return float(sums.mean()) - exact_second_moment(), float(sums.std()) / WALKERS**0.5


def test_half_the_step_has_a_quarter_of_the_error_of_langevin_dynamics() -> None:
    whole, error = langevin_error(0.6, 0)
    half, half_error = langevin_error(0.3, 1)
    assert abs(whole) > 10 * error
    assert abs(whole - 4.0 * half) < 4 * np.hypot(error, 4 * half_error) + 0.15 * abs(whole)  # errors of fourth order
    assert abs(whole - 2.0 * half) > 4 * np.hypot(error, 2 * half_error)  # it is not of first order


def test_hybrid_monte_carlo_has_no_error_at_a_large_step() -> None:
    x, generator = starts(2)
    sampler = HybridMonteCarlo(
        anharmonic, MASS, TEMPERATURE, time_step=0.8, friction=0.3, length=3, positions=x, generator=generator
    )
    sampler.step(40)
    assert 0.3 < sampler.accepted < 0.95  # the correction has work to do
    found = torch.zeros(WALKERS, dtype=torch.float64)
    for _ in range(6):
        sampler.step(3)
        found += sampler.positions.square().mean(dim=(1, 2)) / 6
    error = float(found.std()) / WALKERS**0.5
    assert abs(float(found.mean()) - exact_second_moment()) < 4 * error
    assert error < 0.02


def test_a_move_into_infinite_energy_is_rejected_and_reverses_the_velocity() -> None:
    def wall(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.where(x[:, 0, 0].abs() < 0.5, 0.0, torch.nan), torch.zeros_like(x)

    generator = torch.Generator().manual_seed(3)
    x = torch.zeros(2000, 1, 3, dtype=torch.float64)
    sampler = HybridMonteCarlo(
        wall, MASS, TEMPERATURE, time_step=0.5, friction=0.0, length=1, positions=x, generator=generator
    )
    before = sampler.velocities
    sampler.step()
    stayed = (sampler.positions == 0).all(dim=(1, 2))
    assert 0 < int(stayed.sum()) < 2000
    assert torch.equal(sampler.velocities[stayed], -before[stayed])
    sampler.step(50)
    assert bool((sampler.positions[:, 0, 0].abs() < 0.5).all())


def test_it_continues_bit_identically() -> None:
    def make() -> tuple[HybridMonteCarlo, torch.Generator]:
        generator = torch.Generator().manual_seed(4)
        x = torch.ones(20, 2, 3, dtype=torch.float32)
        kinds = {"time_step": 0.3, "friction": 1.0, "length": 2}
        masses = torch.tensor([1.0, 2.0])
        return HybridMonteCarlo(harmonic, masses, TEMPERATURE, **kinds, positions=x, generator=generator), generator  # type: ignore[arg-type]

    whole, _ = make()
    whole.step(7)
    first, generator = make()
    first.step(3)
    second, its_generator = make()
    second.load_state_dict(first.state_dict())
    its_generator.set_state(generator.get_state())
    second.step(4)
    assert torch.equal(whole.positions, second.positions) and torch.equal(whole.velocities, second.velocities)
