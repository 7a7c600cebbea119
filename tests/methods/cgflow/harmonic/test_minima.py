"""Target, relaxation, Hessians and the Gaussian that is fitted to them."""

from __future__ import annotations

import math

import pytest
import torch

from cgbench.contracts.problem import Problem
from cgbench.counting.ledger import Ledger
from cgbench_methods.cgflow.harmonic.affine import ConditionalAffine, Peaks, fit_to_minima
from cgbench_methods.cgflow.harmonic.atlas.minima import HarmonicMinima, hessians, regularised, relax
from cgbench_methods.cgflow.published.gaussian import ConditionalGaussian
from cgbench_methods.lib.estimators.fourier import FourierBasis
from cgbench_methods.lib.flows.target import ConditionalTarget
from cgbench_systems.muller_brown import MullerBrown


@pytest.fixture
def problem(aldp) -> Problem:
    return Problem(aldp, Ledger())


@pytest.fixture
def target(problem) -> ConditionalTarget:
    return ConditionalTarget(problem, problem.coordinates)


@pytest.fixture
def start(problem) -> tuple[torch.Tensor, torch.Tensor]:
    s, y, _ = problem.coordinates.to_internal(problem.initial_configuration()[None])
    return s, y


def test_target_has_its_own_gradient(target, start, generator) -> None:
    s, y = (t.repeat(5, 1) for t in start)
    y = y + 0.3 * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    direction = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    _, gradient = target.energy_and_gradient(s, y)
    up, down = (target.energy(s, y + sign * 1e-5 * direction) for sign in (1, -1))
    torch.testing.assert_close((up - down) / 2e-5, (gradient * direction).sum(1), rtol=1e-5, atol=1e-4)


def test_configurations_outside_the_state_space_cost_nothing(target, problem, start) -> None:
    """D configurations and negative distances never reach the potential."""
    s, y = (t.repeat(4, 1) for t in start)
    names = problem.coordinates.names
    y = y.clone()
    chiral = names.index("dihedral 10-8-6-14")
    y[1, chiral] -= 2.0 / 0.1  # turns CB to the other side of CA
    y[2, names.index("distance 8-6")] = problem.coordinates.lower[names.index("distance 8-6")] - 1.0
    y.requires_grad_()
    energy = target.energy(s, y)
    assert energy.isfinite().tolist() == [True, False, False, True]
    assert problem.evaluations == 2
    (gradient,) = torch.autograd.grad(energy[energy.isfinite()].sum(), y)
    assert float(gradient[1].abs().sum() + gradient[2].abs().sum()) == 0.0 and float(gradient[0].abs().sum()) > 0


def test_relaxation_and_hessian(target, problem, start) -> None:
    s, y = (t.repeat(3, 1) for t in start)
    s = s + torch.tensor([[0.0, 0.0], [0.4, 0.0], [0.0, -0.5]], dtype=torch.float64)
    unit = torch.eye(target.size, dtype=torch.float64).expand(3, -1, -1)
    found = relax(target, s, y, unit, steps=200, tolerance=1e-6)
    assert bool(found.converged.all())
    assert float(found.gradient.abs().max()) < 0.1
    before, _ = target.energy_and_gradient(s, y)
    assert bool((found.energy <= before).all())
    matrix, mixed = hessians(target, s, found)
    direction = torch.zeros_like(found.y)
    direction[:, 7] = 1.0
    step = 1e-4
    up, down = (target.energy_and_gradient(s, found.y + sign * step * direction)[1] for sign in (1, -1))
    torch.testing.assert_close(matrix[:, 7], (up - down) / (2 * step), rtol=1e-2, atol=5e-2)


def test_slope_of_a_minimum_is_that_of_its_energy(target, start) -> None:
    """Against finite differences of relaxed energies; the mixed derivatives against those of gradients."""
    s, y = start
    unit = torch.eye(target.size, dtype=torch.float64)[None]
    options = {"steps": 300, "tolerance": 1e-9, "stiffness_floor": 0.05}
    (middle,) = (HarmonicMinima.find(target, s, y, unit, **options),)
    for axis in range(2):
        step = torch.zeros(1, 2, dtype=torch.float64)
        step[0, axis] = 0.02
        up, down = (
            HarmonicMinima.find(target, s + sign * step, middle.y, middle.hessian, **options) for sign in (1, -1)
        )
        assert float(middle.slope[0, axis]) == pytest.approx(float((up.energy - down.energy) / 0.04), abs=0.05)
    rough = HarmonicMinima.find(
        target, s, middle.y + 0.1, middle.hessian, steps=2, tolerance=1e-9, stiffness_floor=0.05
    )
    torch.testing.assert_close(rough.slope, middle.slope, rtol=0, atol=0.5)


def test_regularised_is_positive_definite(generator) -> None:
    matrix = torch.randn(4, 6, 6, generator=generator, dtype=torch.float64)
    values = torch.linalg.eigvalsh(regularised(matrix, 0.3))
    assert float(values.min()) >= 0.3 - 1e-12
    stiff = matrix @ matrix.mT + torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(regularised(stiff, 0.3), stiff, rtol=0, atol=1e-9)


def test_laplace_pmf_is_exact_for_a_gaussian() -> None:
    """At the bottom of Müller-Brown's main basin the harmonic PMF follows the exact one to anharmonicity."""
    system = MullerBrown()
    problem = Problem(system, Ledger())
    target = ConditionalTarget(problem, problem.coordinates)
    bins = [11, 13, 16]
    s = torch.from_numpy(system.cvs.centers(0)[bins])[:, None]
    _, y, _ = problem.coordinates.to_internal(system.initial_configuration()[None])
    unit = torch.eye(1, dtype=torch.float64).expand(3, -1, -1)
    minima = HarmonicMinima.find(target, s, y.repeat(3, 1), unit, steps=50, tolerance=1e-8, stiffness_floor=0.01)
    probability = system.reference().pmf.probability
    exact = torch.tensor([-math.log(probability[index]) for index in bins])
    harmonic = minima.free_energy - minima.free_energy[1]
    torch.testing.assert_close(harmonic, (exact - exact[1]).double(), rtol=0, atol=0.05)


def test_affine_is_a_gaussian_with_mean_and_covariance_of_the_minima(generator) -> None:
    """At the reference points, with as many features as points, the fit reproduces both."""
    system = MullerBrown()
    count, fine = 5, 4
    s = torch.linspace(-2.3, 0.9, count, dtype=torch.float64)[:, None]
    root = torch.randn(count, fine, fine, generator=generator, dtype=torch.float64)
    hessian = root @ root.mT + torch.eye(fine, dtype=torch.float64)
    mean = torch.randn(count, fine, generator=generator, dtype=torch.float64)
    zero = torch.zeros(count, dtype=torch.float64)
    minima = HarmonicMinima(s, mean, hessian, zero, zero, torch.zeros_like(s))
    basis = FourierBasis(system.cvs, 4)
    periodic = torch.zeros(fine, dtype=torch.bool)
    bounds = torch.full((fine,), -math.inf, dtype=torch.float64), torch.full((fine,), math.inf, dtype=torch.float64)
    transform, _ = fit_to_minima(minima, periodic, *bounds, basis, stiffness_offset=0.0, smoothness=1e-12)
    noise = torch.randn(count, fine, generator=generator, dtype=torch.float64)
    y, log_det = transform.inverse(noise, basis(s))
    back, log_det_back = transform(y, basis(s))
    torch.testing.assert_close(back, noise, rtol=0, atol=1e-10)
    torch.testing.assert_close(log_det_back, -log_det, rtol=0, atol=1e-10)
    centre, _ = transform.inverse(torch.zeros_like(noise), basis(s))
    torch.testing.assert_close(centre, mean, rtol=0, atol=1e-4)
    deviation = y - centre
    squared = (deviation[:, None] @ hessian @ deviation[:, :, None]).flatten()
    torch.testing.assert_close(squared, (noise**2).sum(1), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(log_det, -0.5 * torch.logdet(hessian), rtol=0, atol=1e-3)


def test_periodic_coordinates_start_with_the_density_of_a_hindered_rotor(generator) -> None:
    """A rotor in a cosine potential that drags another coordinate along: the start is its density, nearly exactly.

    Potential: ``k (1 - cos 3(a - a0)) + 1/2 (x - c sin 3(a - a0) / 3)^2 h``, with the period 2 pi/3.
    """
    k, h, c, a0 = 3.0, 4.0, 1.5, 0.2
    system = MullerBrown()
    curvature = torch.tensor([[h, -h * c], [-h * c, 9 * k + h * c**2]], dtype=torch.float64)
    points = torch.linspace(-2.3, 0.9, 5, dtype=torch.float64)[:, None]
    y = torch.tensor([[0.0, a0]], dtype=torch.float64).repeat(5, 1)
    zero = torch.zeros(5, dtype=torch.float64)
    minima = HarmonicMinima(points, y, curvature.repeat(5, 1, 1), zero, zero, torch.zeros_like(points))
    periodic = torch.tensor([False, True])
    third = math.pi / 3
    lower = torch.tensor([-math.inf, -third], dtype=torch.float64)
    basis = FourierBasis(system.cvs, 2)
    stages = fit_to_minima(minima, periodic, lower, -lower, basis, stiffness_offset=0.0, smoothness=1e-12)
    count = 4000
    noise = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    noise[:, 1] = third * (2 * torch.rand(count, generator=generator, dtype=torch.float64) - 1)
    context = basis(points[:1]).repeat(count, 1)
    data, volume = noise, torch.zeros(count, dtype=torch.float64)
    for stage in stages:
        stage.requires_grad_(False)
    for stage in reversed(stages):
        data, log_det = stage.inverse(data, context)
        volume = volume + log_det
    x, a = data.T
    energy = k * (1 - torch.cos(3 * (a - a0))) + 0.5 * h * (x - c * torch.sin(3 * (a - a0)) / 3) ** 2
    log_weight = -energy + volume + 0.5 * noise[:, 0] ** 2
    assert bool((a.abs() <= third).all())
    weight = log_weight.exp() / log_weight.exp().mean()
    assert float(weight.std()) < 0.02 and float(weight.max()) < 1.1
    back, volume_back = data, torch.zeros(count, dtype=torch.float64)
    for stage in stages:
        back, log_det = stage(back, context)
        volume_back = volume_back + log_det
    torch.testing.assert_close(back, noise, rtol=0, atol=1e-8)
    torch.testing.assert_close(volume_back, -volume, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kappa", [0.0, 0.2, 3.0, 30.0])
def test_peaks_are_von_mises_densities(kappa) -> None:
    lower = torch.tensor([-1.0], dtype=torch.float64)
    peaks = Peaks(torch.tensor([kappa], dtype=torch.float64), torch.tensor([True]), lower, lower + 2.0)
    angle = torch.linspace(-1.0, 0.999, 2000, dtype=torch.float64)[:, None]
    _, log_density = peaks(angle)
    exact = kappa * (torch.cos(math.pi * angle[:, 0]) - 1.0)
    exact = exact - exact.exp().mean().log()
    weight = (exact - log_density).exp()
    assert float(weight.max()) < 1.4  # measured: 1.32 for the sharpest
    assert float((log_density.exp() * weight**2).mean()) < 1.03  # measured: 1.024
    assert float(log_density.exp().mean()) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("kind", ["affine", "peaks", "network"])
def test_log_dets_against_autograd(kind, generator) -> None:
    fine, features = 5, 3
    transform: torch.nn.Module
    if kind == "affine":
        periodic = torch.tensor([False, True, False, False, False])
        factor = torch.linalg.cholesky(torch.eye(4, dtype=torch.float64) * 2 + 0.5)
        lower = torch.full((5,), -math.pi, dtype=torch.float64)
        transform = ConditionalAffine(periodic, features, factor, lower, -lower)
        with torch.no_grad():
            for parameter in transform.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    elif kind == "peaks":
        periodic = torch.tensor([False, True, False, True, False])
        lower = torch.full((5,), -math.pi, dtype=torch.float64)
        transform = Peaks(torch.tensor([0.5, 4.0], dtype=torch.float64), periodic, lower, -lower)
    else:
        transform = ConditionalGaussian(fine, features, (8,), generator)
    y = torch.randn(6, fine, generator=generator, dtype=torch.float64)
    context = torch.randn(6, features, generator=generator, dtype=torch.float64)
    for function in (transform.forward, transform.inverse):
        _, log_det = function(y, context)
        for row in range(6):
            jacobian = torch.autograd.functional.jacobian(
                lambda v, row=row, function=function: function(v[None], context[row : row + 1])[0][0], y[row]
            )
            assert float(log_det[row].detach()) == pytest.approx(
                float(torch.linalg.slogdet(jacobian).logabsdet), abs=1e-8
            )


def test_blocks_of_features_change_nothing(generator) -> None:
    """One of three wells has no sample."""
    periodic = torch.tensor([False, True, False, False])
    factor = torch.eye(3, dtype=torch.float64) * 2
    lower = torch.full((4,), -math.pi, dtype=torch.float64)
    features = torch.zeros(7, 3, 2, dtype=torch.float64)
    well = torch.tensor([2, 0, 0, 2, 0, 2, 2])
    features[torch.arange(7), well] = torch.randn(7, 2, generator=generator, dtype=torch.float64)
    y = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    found = []
    for blocks in (1, 3):
        transform = ConditionalAffine(periodic, 6, factor, lower, -lower, blocks)
        with torch.no_grad():
            for parameter in transform.parameters():
                parameter += torch.linspace(-0.5, 0.5, parameter.numel(), dtype=torch.float64).reshape(parameter.shape)
        context = features.flatten(1).requires_grad_()
        noise, log_det = transform.forward(y, context)
        (noise.square().sum() + log_det.sum()).backward()
        of_own_block = context.grad.unflatten(1, (3, 2))[torch.arange(7), well]
        found.append((noise, log_det, of_own_block, *(parameter.grad for parameter in transform.parameters())))
        context.grad = None
    for dense, by_block in zip(*found, strict=True):
        torch.testing.assert_close(by_block, dense)
