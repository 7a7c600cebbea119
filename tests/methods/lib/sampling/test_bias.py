"""Biases against autograd, closed forms and exact tilted distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.problem import Problem
from cgbench.counting.ledger import Ledger
from cgbench_methods.lib.sampling.bias import FourierBias, biased
from cgbench_methods.lib.sampling.langevin import Langevin
from cgbench_methods.lib.sampling.metropolis import Metropolis
from cgbench_methods.lib.sampling.walkers import make_walkers
from cgbench_systems.muller_brown import MullerBrown, exact_probability

TORUS = CollectiveVariables(("phi", "psi"), (-math.pi, -math.pi), (math.pi, math.pi), (True, True))
LINE = CollectiveVariables(("s",), (-2.5,), (1.1,), (False,))
STRIP = CollectiveVariables(("angle", "distance"), (0.0, 0.2), (2 * math.pi, 1.7), (True, False), bins=(60, 40))
DOMAINS = pytest.mark.parametrize("cvs", [TORUS, LINE, STRIP], ids=["torus", "line", "strip"])


def inside(cvs: CollectiveVariables, count: int, generator: torch.Generator, dtype=torch.float64) -> torch.Tensor:
    lower, upper = torch.tensor(cvs.lower, dtype=dtype), torch.tensor(cvs.upper, dtype=dtype)
    return lower + (upper - lower) * torch.rand(count, len(cvs), generator=generator, dtype=dtype)


def hilly(cvs: CollectiveVariables, generator: torch.Generator, order: int = 6) -> FourierBias:
    bias = FourierBias(cvs, order)
    heights = torch.rand(30, generator=generator, dtype=torch.float64)
    widths = [0.08 * (upper - lower) for lower, upper in zip(cvs.lower, cvs.upper, strict=True)]
    bias.deposit(inside(cvs, 30, generator), heights, widths)
    return bias


@DOMAINS
def test_gradient_against_autograd(cvs, generator) -> None:
    bias, s = hilly(cvs, generator), inside(cvs, 50, generator)
    energy, gradient = bias.energy_and_gradient(s)
    at = s.clone().requires_grad_()
    (truth,) = torch.autograd.grad(bias.energy(at).sum(), at)
    torch.testing.assert_close(energy, bias.energy(s))
    torch.testing.assert_close(gradient, truth, rtol=0, atol=1e-10)
    single, slope = bias.energy_and_gradient(s.float())
    assert single.dtype == slope.dtype == torch.float32
    torch.testing.assert_close(slope.double(), gradient, rtol=0, atol=1e-4)


def test_a_hill_is_a_periodic_gaussian(generator) -> None:
    """In a series of high order, a hill next to the seam is the sum over images of a Gaussian."""
    bias = FourierBias(TORUS, order=24)
    centre, widths = torch.tensor([[3.10, -0.70]], dtype=torch.float64), (0.35, 0.5)
    bias.deposit(centre, torch.tensor([2.0]), widths)
    s = inside(TORUS, 200, generator)
    shifts = 2 * math.pi * torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2))
    distance = (s[:, None] - centre - shifts[None]) / torch.tensor(widths, dtype=torch.float64)
    truth = 2.0 * torch.exp(-0.5 * (distance**2).sum(2)).sum(1)
    torch.testing.assert_close(bias.energy(s), truth, rtol=0, atol=1e-6)


def test_a_hill_is_mirrored_at_the_ends_of_a_cv_that_is_not_periodic(generator) -> None:
    bias, centre, width = FourierBias(LINE, order=20), 0.9, 0.3
    bias.deposit(torch.tensor([[centre]]).double(), torch.tensor([2.0]), (width,))
    s = inside(LINE, 200, generator)
    images = torch.tensor([centre, 2 * 1.1 - centre, 2 * -2.5 - centre], dtype=torch.float64)
    truth = 2.0 * torch.exp(-0.5 * ((s - images) / width) ** 2).sum(1)
    torch.testing.assert_close(bias.energy(s), truth, rtol=0, atol=1e-6)


def test_beyond_its_ends_a_bias_is_constant(generator) -> None:
    bias = hilly(LINE, generator)
    s = torch.tensor([[-4.0], [-2.5], [1.1], [3.0]], dtype=torch.float64)
    energy, gradient = bias.energy_and_gradient(s)
    assert energy[0] == energy[1] and energy[2] == energy[3]
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


@DOMAINS
def test_a_bias_is_found_again_from_its_values_on_the_grid(cvs, generator) -> None:
    bias = hilly(cvs, generator)
    again = FourierBias.from_grid(cvs, bias.on_grid(), bias.series.order)
    torch.testing.assert_close(again.coefficients, bias.coefficients)
    third = FourierBias(cvs, bias.series.order)
    third.load_state_dict(bias.state_dict())
    assert torch.equal(third.coefficients, bias.coefficients)


def test_biased_energy_has_its_own_gradient(aldp, varied_configurations, generator) -> None:
    bias = FourierBias(aldp.cvs, order=4)
    bias.deposit(aldp.collective_variables(varied_configurations[:50]), torch.ones(50), (0.5, 0.4))
    evaluate = biased(bias, aldp.reduced_energy_and_gradient, aldp.collective_variables)
    x = varied_configurations[:5]
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    energy, gradient = evaluate(x)
    s, added = evaluate.last
    assert torch.equal(s, aldp.collective_variables(x))
    torch.testing.assert_close(energy - added, aldp.reduced_energy(x))
    up, down = (evaluate(x + sign * 1e-6 * direction)[0] for sign in (1, -1))
    slope = (gradient * direction).flatten(1).sum(1)
    torch.testing.assert_close((up - down) / 2e-6, slope, rtol=1e-5, atol=1e-2)


def problem(system) -> Problem:
    return Problem(system, Ledger())


def test_metropolis_under_a_bias_samples_the_tilted_distribution(generator) -> None:
    """Under minus the PMF, smoothed, the walkers are spread as ``p exp(-bias)``; a changed bias costs nothing."""
    system = MullerBrown()
    p = exact_probability(system.cvs)
    bias = FourierBias.from_grid(system.cvs, np.log(np.maximum(p, p.max() * math.exp(-12.0))), order=8)
    given = problem(system)
    options = {"time_step": 0.001, "friction": 1.0, "step_size": 0.3}
    start = system.initial_configuration().repeat(4000, 1)
    none_yet = FourierBias(system.cvs, order=8)
    walkers = make_walkers(given, start, generator, bias=none_yet, **options)
    assert isinstance(walkers, Metropolis)
    walkers.step(5)
    none_yet.coefficients = bias.coefficients  # the bias changes under way
    walkers.step(595)
    assert given.evaluations == 4000 * 601
    torch.testing.assert_close(walkers.energies, system.reduced_energy(walkers.positions))
    expected = p * np.exp(-bias.on_grid())
    cdf = np.concatenate([[0.0], np.cumsum(expected) / expected.sum()])
    s = system.collective_variables(walkers.positions)[:, 0].numpy()
    s = s[(s >= -2.5) & (s <= 1.1)]
    edges = system.cvs.edges(0)
    assert stats.kstest(s, lambda values: np.interp(values, edges, cdf)).pvalue > 1e-3
    plain = np.concatenate([[0.0], np.cumsum(p)])
    assert stats.kstest(s, lambda values: np.interp(values, edges, plain)).pvalue < 1e-9


def test_walkers_of_a_molecule_are_langevin_and_counted(aldp, generator) -> None:
    given = problem(aldp)
    bias = FourierBias(aldp.cvs)
    options = {"time_step": 0.001, "friction": 1.0, "step_size": 0.1}
    start = aldp.initial_configuration().repeat(3, 1, 1)
    walkers = make_walkers(given, start, generator, bias=bias, **options)
    assert isinstance(walkers, Langevin) and walkers.positions.dtype == torch.float32
    walkers.step(4)
    assert given.evaluations == 12
