"""Exchange and spacing of temperatures against harmonic oscillators and the Metropolis criterion by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cgbench_methods.lib.sampling.langevin import BOLTZMANN, Langevin
from cgbench_methods.lib.sampling.metropolis import Metropolis
from cgbench_methods.parallel_tempering.exchange import TemperatureExchange
from cgbench_methods.parallel_tempering.ladder import first_ladder, respaced

LADDER = np.array([1.0, 1.3, 1.8, 2.4])
DEGREES = 12
TEMPERATURE, MASS, STIFFNESS = 300.0, 12.0, 2.0e4  # K, Da, kJ/(mol nm^2)
REDUCED = STIFFNESS / (BOLTZMANN * TEMPERATURE)  # stiffness in kT/nm^2


def drawn(ladders: int, generator: torch.Generator, relative: np.ndarray = LADDER) -> torch.Tensor:
    """Positions of oscillators ``u = x^2 / 2`` in equilibrium, ``[ladders * temperatures, degrees]``."""
    normal = torch.randn(ladders, len(relative), DEGREES, generator=generator, dtype=torch.float64)
    return (normal * torch.from_numpy(relative).sqrt()[:, None]).flatten(0, 1)


def energy(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * (x * x).flatten(1).sum(1)


def check_temperatures(x: torch.Tensor, relative: np.ndarray = LADDER) -> None:
    """Check ``x [ladders, temperatures, degrees]`` in thermal widths at T_0: means, variances, energies, z < 4."""
    ladders, _, degrees = x.shape
    for k, temperature in enumerate(relative):
        values = x[:, k].double().numpy() / math.sqrt(temperature)
        number = values.size
        assert abs(values.mean()) * math.sqrt(number) < 4
        assert abs((values**2).mean() - 1) / math.sqrt(2 / number) < 4
        # the energy has a gamma distribution with variance degrees / 2 and fourth cumulant 3 degrees
        energies = 0.5 * (values**2).sum(1)
        variance = 0.5 * degrees
        error = math.sqrt((3 * degrees + 2 * variance**2) / ladders)
        assert abs(energies.var(ddof=1) - variance) / error < 4


def test_exchange_keeps_the_distribution_of_every_temperature(generator) -> None:
    """Walkers drawn from their temperatures stay distributed so, however often they are exchanged."""
    ladders = 20_000
    x = drawn(ladders, generator)
    exchange = TemperatureExchange(LADDER, ladders, generator)
    for _ in range(9):
        exchange.attempt(energy(x))
    check_temperatures(exchange.by_temperature(x))
    rates = exchange.rates()
    assert ((0.2 < rates) & (rates < 0.8)).all()
    moved = (exchange.holder != torch.arange(len(LADDER))).double().mean()
    assert 0.5 < moved < 0.8
    assert torch.equal(exchange.holder.sort(1).values, torch.arange(len(LADDER)).repeat(ladders, 1))
    # neighbours stay independent of each other
    energies = energy(x).reshape(ladders, -1).gather(1, exchange.holder).numpy()
    for k in range(len(LADDER) - 1):
        assert abs(np.corrcoef(energies[:, k], energies[:, k + 1])[0, 1]) * math.sqrt(ladders) < 4


def test_the_swap_has_the_metropolis_probability_and_detailed_balance(generator) -> None:
    """By hand: at 1 and 2 T0, energies 3 and 5 swap with exp((1 - 1/2)(3 - 5)) = exp(-1), and 5 and 3 always."""
    pair, ladders = np.array([1.0, 2.0]), 40_000
    probability = {}
    for energies in ((3.0, 5.0), (5.0, 3.0)):
        exchange = TemperatureExchange(pair, ladders, generator)
        exchange.attempt(torch.tensor(energies).repeat(ladders))
        probability[energies] = float(exchange.rates()[0])
        accepted = float((exchange.holder[:, 0] == 1).double().mean())
        spread = math.sqrt(probability[energies] * (1 - probability[energies]) / ladders)
        assert abs(accepted - probability[energies]) <= 4 * spread
    assert probability[3.0, 5.0] == pytest.approx(math.exp(-1.0), rel=1e-12) and probability[5.0, 3.0] == 1.0
    weight = {one: math.exp(-one[0] - 0.5 * one[1]) for one in probability}
    assert weight[3.0, 5.0] * probability[3.0, 5.0] == pytest.approx(weight[5.0, 3.0] * probability[5.0, 3.0])


def test_pairs_take_turns_and_walkers_without_an_energy_stay(generator) -> None:
    exchange = TemperatureExchange(LADDER, 3, generator)
    flat = torch.zeros(12)  # equal energies always swap
    exchange.attempt(flat)
    assert exchange.holder.tolist() == [[1, 0, 3, 2]] * 3
    exchange.attempt(flat)
    assert exchange.holder.tolist() == [[1, 3, 0, 2]] * 3
    assert exchange.attempted.tolist() == [3.0, 3.0, 3.0]
    torch.testing.assert_close(exchange.temperatures()[:4], torch.tensor([1.8, 1.0, 2.4, 1.3], dtype=torch.float64))
    for bad in (torch.inf, torch.nan):
        stuck = TemperatureExchange(LADDER[:2], 1, generator)
        for energies in ((bad, 0.0), (0.0, bad), (bad, bad)):
            stuck.attempt(torch.tensor(energies))
            stuck.parity = 0
        assert stuck.holder.tolist() == [[0, 1]] and stuck.rates()[0] == 0.0


def test_round_trips_of_a_steady_conveyor(generator) -> None:
    """If every exchange is accepted, a walker of four goes round in eight exchanges."""
    exchange = TemperatureExchange(LADDER, 2, generator)
    for _ in range(80):
        exchange.attempt(torch.zeros(8))
    assert exchange.round_trips == pytest.approx(2 * 4 * 80 / 8, abs=8)
    exchange.forget_counts()
    assert exchange.round_trips == 0 and not exchange.attempted.any()


def test_exchange_continues_from_its_state(generator) -> None:
    x = drawn(50, generator)
    first = TemperatureExchange(LADDER, 50, torch.Generator().manual_seed(3))
    first.attempt(energy(x))
    second = TemperatureExchange(LADDER, 50, torch.Generator().manual_seed(4))
    second.load_state_dict(first.state_dict())
    second.generator.set_state(first.generator.get_state())
    first.attempt(energy(x))
    second.attempt(energy(x))
    assert torch.equal(first.holder, second.holder) and first.parity == second.parity
    assert torch.equal(first.expected, second.expected) and first.round_trips == second.round_trips


def oscillator(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return 0.5 * REDUCED * (x * x).flatten(1).sum(1), REDUCED * x


def test_langevin_with_exchange_keeps_positions_and_velocities_thermal(generator) -> None:
    """From the minimum, 400 steps at half the stable time step: the middle scheme's positions are exact there."""
    ladders, atoms = 1500, DEGREES // 3
    exchange = TemperatureExchange(LADDER, ladders, generator)
    dynamics = Langevin(
        oscillator,
        torch.full((atoms,), MASS, dtype=torch.float64),
        TEMPERATURE,
        time_step=1.0 / math.sqrt(STIFFNESS / MASS),
        friction=20.0,
        positions=torch.zeros(ladders * len(LADDER), atoms, 3, dtype=torch.float64),
        generator=generator,
    )
    dynamics.set_temperatures(exchange.temperatures())
    for _ in range(40):
        gradient = dynamics.begin_step()
        exchange.attempt(dynamics.energies)
        dynamics.set_temperatures(exchange.temperatures())
        dynamics.finish_step(gradient)
        dynamics.step(9)
    assert exchange.rates().min() > 0.2
    check_temperatures(exchange.by_temperature(dynamics.positions).flatten(2) * math.sqrt(REDUCED))


def test_velocities_are_rescaled_to_the_new_temperature(generator) -> None:
    dynamics = Langevin(
        oscillator,
        torch.full((4,), MASS, dtype=torch.float64),
        TEMPERATURE,
        time_step=0.0005,
        friction=20.0,
        positions=torch.zeros(4000, 4, 3, dtype=torch.float64),
        generator=generator,
    )
    relative = torch.tensor([1.0, 4.0], dtype=torch.float64).repeat(2000)
    before = dynamics.velocities
    dynamics.set_temperatures(relative)
    torch.testing.assert_close(dynamics.velocities[1::2], 2 * before[1::2])
    assert torch.equal(dynamics.velocities[::2], before[::2])
    dynamics.step(300)
    kinetic = (dynamics.velocities**2).flatten(1).mean(1) * MASS / (BOLTZMANN * TEMPERATURE)
    assert float(kinetic[::2].mean()) == pytest.approx(1.0, abs=0.03)
    assert float(kinetic[1::2].mean()) == pytest.approx(4.0, abs=0.12)
    # a diverged walker goes back to where it was, at the temperature that it has now
    dynamics.restore_diverged()
    dynamics.begin_step()  # its energies are finite, so this is a state to go back to
    kept = dynamics.velocities
    dynamics.set_temperatures(relative.flip(0))
    dynamics.positions = dynamics.positions.clone()
    dynamics.positions[0] = torch.nan
    assert dynamics.restore_diverged().nonzero().tolist() == [[0]]
    torch.testing.assert_close(dynamics.velocities[0], -2 * kept[0])


def test_metropolis_samples_every_walker_at_its_temperature(generator) -> None:
    relative = np.array([1.0, 2.0, 5.0])
    sampler = Metropolis(energy, torch.zeros(9000, 2, dtype=torch.float64), 1.5, generator)
    sampler.set_temperatures(torch.from_numpy(relative).repeat(3000))
    sampler.step(100)
    check_temperatures(sampler.positions.reshape(3000, 3, 2), relative)
    torch.testing.assert_close(sampler.energies, energy(sampler.positions))  # reduced at the first temperature


# ---- spacing --------------------------------------------------------------------------------------


def rates_of(relative: np.ndarray, generator: torch.Generator) -> np.ndarray:
    exchange = TemperatureExchange(relative, 4000, generator)
    x = drawn(4000, generator, relative)
    for _ in range(2):
        exchange.attempt(energy(x))
    return exchange.rates()


def test_the_first_ladder_of_a_harmonic_system_has_the_wanted_rate(generator) -> None:
    ladder = first_ladder(DEGREES, 6.0, 0.3, 20)
    assert ladder[0] == 1.0 and ladder[-1] == pytest.approx(6.0)
    rates = rates_of(ladder, generator)
    assert ((0.25 < rates) & (rates < 0.5)).all() and np.ptp(rates) < 0.06
    assert len(first_ladder(10_000, 6.0, 0.3, 20)) == 20 and len(first_ladder(1, 1.01, 0.3, 20)) == 2
    assert len(first_ladder(4 * DEGREES, 6.0, 0.3, 99)) == pytest.approx(2 * len(ladder), abs=2)


def test_an_uneven_ladder_becomes_even(generator) -> None:
    uneven = np.array([1.0, 1.1, 1.2, 1.4, 3.0, 6.0])
    assert np.ptp(rates_of(uneven, generator)) > 0.6
    ladder = uneven
    for _ in range(3):
        ladder = respaced(ladder, rates_of(ladder, generator), 0.3, 20)
    rates = rates_of(ladder, generator)
    assert np.ptp(rates) < 0.06 and 0.25 < rates.min() < 0.5
    assert ladder[0] == 1.0 and ladder[-1] == 6.0 and (np.diff(ladder) > 0).all()
    assert len(respaced(uneven, np.zeros(5), 0.3, 8)) == 8
