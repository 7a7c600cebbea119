"""Müller-Brown against published stationary points and an independent quadrature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize_scalar

from cgbench_systems.muller_brown import BARRIERS, BETA, MullerBrown, potential, potential_grid


@pytest.fixture(scope="module")
def system() -> MullerBrown:
    return MullerBrown()


@pytest.mark.parametrize(
    "point, energy",
    [((-0.558, 1.442), -146.700), ((-0.050, 0.467), -80.768), ((0.623, 0.028), -108.167)]
    + [((-0.822, 0.624), -40.665), ((0.212, 0.293), -72.249)],
)
def test_stationary_points(system, point, energy) -> None:
    """Minima and saddles as published (Müller and Brown 1979)."""
    x = torch.tensor([point], dtype=torch.float64)
    reduced, gradient = system.reduced_energy_and_gradient(x)
    assert float(reduced) / BETA == pytest.approx(energy, abs=2e-3)
    assert float(gradient.abs().max()) / BETA < 2.0


def density(s: float) -> float:
    value, _ = quad(
        lambda other: np.exp(-BETA * (potential(np.array(0.5 * (s + other)), np.array(0.5 * (other - s))) + 146.7)),
        -5.0,
        5.0,
        epsabs=1e-14,
        epsrel=1e-12,
        limit=400,
        points=[-1.0, 0.0, 0.7, 1.0, 1.5],
    )
    return value


def test_reference_against_adaptive_quadrature(system) -> None:
    """Ratios of bin probabilities agree with nested adaptive quadrature to 1e-10 of the whole."""
    probability = system.reference().pmf.probability
    edges = system.cvs.edges(0)
    chosen = [5, 13, 14, 20, 30, 55, 66, 85, 99]
    integrals = np.array([quad(density, edges[i], edges[i + 1], epsabs=1e-14, epsrel=1e-12)[0] for i in chosen])
    ours = probability[chosen]
    np.testing.assert_allclose(ours / ours.sum(), integrals / integrals.sum(), rtol=1e-10, atol=1e-10)
    assert probability.sum() == pytest.approx(1.0, abs=1e-14)


def test_barriers_are_maxima_of_the_exact_pmf() -> None:
    other = np.linspace(-6, 6, 8001)

    def minus_pmf(s: float) -> float:
        with np.errstate(over="ignore"):
            return np.log(np.exp(-BETA * potential(0.5 * (s + other), 0.5 * (other - s))).sum())

    for barrier in BARRIERS:
        found = minimize_scalar(minus_pmf, bounds=(barrier - 0.2, barrier + 0.2), method="bounded")
        assert found.x == pytest.approx(barrier, abs=2e-4)


def test_basins_hold_the_minima(system) -> None:
    minima = {"reactant (upper left)": -2.0, "intermediate": -0.517, "product (lower right)": 0.595}
    for basin in system.basins:
        for name, s in minima.items():
            assert bool(basin.contains([np.array(s)])) == (name == basin.name)


def test_coordinates(system, generator) -> None:
    x = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    s, y, log_det = system.coordinates.to_internal(x)
    back, log_det_back = system.coordinates.to_cartesian(s, y)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(s, system.collective_variables(x))
    jacobian = torch.func.jacrev(lambda v: torch.cat(system.coordinates.to_internal(v[None])[:2], dim=1)[0])(x[0])
    truth = torch.linalg.slogdet(jacobian).logabsdet
    assert float(log_det[0]) == pytest.approx(float(truth), abs=1e-10)
    assert float(log_det_back[0]) == pytest.approx(-float(truth), abs=1e-10)


def test_gradient(system, generator) -> None:
    x = 0.5 * torch.randn(20, 2, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(system.reduced_energy, x.requires_grad_())


def test_figure_data() -> None:
    x, y, energy = potential_grid(50)
    assert energy.shape == (50, 50)
    assert energy[3, 7] == pytest.approx(float(potential(x[3], y[7])))


def test_self_check_passes(system) -> None:
    assert all(check.passed for check in system.self_check())
