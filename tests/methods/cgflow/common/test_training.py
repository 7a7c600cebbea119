"""Weighted samples from training steps: log-weights and their slopes along the CVs."""

from __future__ import annotations

import math

import pytest
import torch
from nflows.transforms.base import CompositeTransform, Transform

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.problem import Problem
from cgbench.counting.ledger import Ledger
from cgbench_methods.cgflow.common.stack import conditional_flow
from cgbench_methods.cgflow.common.training import path_gradient_step, plain_gradient_step
from cgbench_methods.cgflow.harmonic.affine import fit_to_minima
from cgbench_methods.cgflow.harmonic.atlas.minima import HarmonicMinima
from cgbench_methods.lib.estimators.fourier import FourierBasis
from cgbench_methods.lib.flows.build import ConditionalFlow
from cgbench_methods.lib.flows.distributions import UniformGaussian
from cgbench_methods.lib.flows.target import ConditionalTarget
from cgbench_systems.muller_brown import MullerBrown
from tests.methods.cgflow.harmonic.plain import MadeUp, Unconditional


def rough_flow(
    problem: Problem, target: ConditionalTarget, basis: FourierBasis, generator: torch.Generator
) -> ConditionalFlow:
    """Return the flow of one harmonic minimum, with perturbed parameters."""
    s, y, _ = target.coordinates.to_internal(problem.initial_configuration()[None])
    unit = torch.eye(target.size, dtype=torch.float64)[None]
    minima = HarmonicMinima.find(target, s, y, unit, steps=20, tolerance=0.1, stiffness_floor=0.05)
    coordinates = target.coordinates
    bounds = coordinates.periodic, coordinates.lower, coordinates.upper
    start = fit_to_minima(minima, *bounds, basis, stiffness_offset=0.02, smoothness=1e-3)
    flow = conditional_flow(
        target.coordinates,
        list(start),
        context_features=len(basis),
        num_couplings=2,
        hidden_features=16,
        num_blocks=1,
        num_bins=8,
        generator=generator,
        dtype=torch.float64,
    )
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return flow


def test_slopes_are_derivatives_at_fixed_noise(aldp, generator) -> None:
    problem = Problem(aldp, Ledger())
    target = ConditionalTarget(problem, problem.coordinates)
    basis = FourierBasis(problem.cvs, 2)
    flow = rough_flow(problem, target, basis, generator)
    s0, _, _ = target.coordinates.to_internal(problem.initial_configuration()[None])
    s = s0 + 0.1 * torch.randn(30, 2, generator=generator, dtype=torch.float64)
    before = problem.evaluations
    _, log_weights, slopes = path_gradient_step(flow, target, s, basis, generator.manual_seed(5), clip_norm=1.0)
    assert problem.evaluations - before == 30  # slopes are free
    assert all(p.grad is not None for p in flow.parameters())
    _, again, same = path_gradient_step(flow, target, s, basis, generator.manual_seed(5), clip_norm=None)
    torch.testing.assert_close(again, log_weights)
    torch.testing.assert_close(same, slopes, rtol=1e-6, atol=1e-6)  # clipping acts on the parameters alone
    _, plain, also = plain_gradient_step(flow, target, s, basis, generator.manual_seed(5), clip_norm=1.0)
    torch.testing.assert_close(plain, log_weights)
    torch.testing.assert_close(also, slopes, rtol=1e-6, atol=1e-6)
    step = 1e-6
    for axis in range(2):
        ends = []
        for sign in (1, -1):
            moved = s.clone()
            moved[:, axis] += sign * step
            with torch.no_grad():
                y, log_q = flow.sample_with_log_prob(basis(moved), generator.manual_seed(5))
                ends.append(-(target.energy(moved, y) + log_q))
        difference = (ends[0] - ends[1]) / (2 * step)
        error = (difference - slopes[:, axis]).abs() / (1 + difference.abs())
        assert float(error.median()) < 1e-4 and float(error.quantile(0.9)) < 1e-2


def test_weighted_slopes_are_the_mean_force(generator) -> None:
    """Also for a poor flow; on Müller-Brown, whose mean force is known."""
    system = MullerBrown()
    problem = Problem(system, Ledger())
    target = ConditionalTarget(problem, problem.coordinates)
    basis = FourierBasis(problem.cvs, 2)
    flow = rough_flow(problem, target, basis, generator)
    lowest = int(system.reference().pmf.free_energy.argmin())
    s = torch.from_numpy(system.cvs.grid())[lowest + 4].expand(40_000, 1)  # near the flow's minimum
    y = torch.linspace(-60.0, 60.0, 200_001, dtype=torch.float64)[:, None]
    h = 1e-4
    up, down = (torch.logsumexp(-target.energy((s[:1] + d).expand(len(y), 1), y), 0) for d in (h, -h))
    expected = float(up - down) / (2 * h)  # by quadrature over the fine-grained coordinate
    _, log_weights, slopes = path_gradient_step(flow, target, s, basis, generator, clip_norm=None)
    weights = (log_weights - log_weights.max()).exp()
    mean = float((weights * slopes[:, 0]).sum() / weights.sum())
    assert abs(mean - expected) < 0.005 * abs(expected)  # a second minimum far off makes a heavy tail


class Shifted(MadeUp):
    """A quartic well of y that does not depend on the CV."""

    name, cvs = "shifted", CollectiveVariables(("x",), (-1.0,), (1.0,), (False,), bins=(4,))
    names, angles, start = ("y",), (False,), (0.0, 0.0)

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        return 0.1 * (x[:, 1] - 0.5) ** 4


class Stretch(Transform):
    """``y = m + e^t z``."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters_ = torch.nn.Parameter(torch.tensor([-0.4, 0.9], dtype=torch.float64))

    def forward(self, inputs, context=None):
        m, t = self.parameters_
        return (inputs - m) * torch.exp(-t), -t.expand(len(inputs))

    def inverse(self, inputs, context=None):
        m, t = self.parameters_
        return m + inputs * torch.exp(t), t.expand(len(inputs))


def of_one_coordinate(stretch: Stretch) -> ConditionalFlow:
    infinite = torch.full((1,), torch.inf, dtype=torch.float64)
    base = UniformGaussian(-infinite, infinite, torch.zeros(1, dtype=torch.bool))
    return ConditionalFlow(CompositeTransform([stretch, Unconditional()]), base)


def test_gradient_is_that_of_the_jensen_shannon_divergence(generator) -> None:
    """By quadrature over the fine-grained coordinate."""
    problem = Problem(Shifted(), Ledger())
    target = ConditionalTarget(problem, problem.coordinates)
    stretch = Stretch()
    flow = of_one_coordinate(stretch)

    y = torch.linspace(-12.0, 12.0, 24_001, dtype=torch.float64)[:, None]
    log_p = -target.energy(torch.zeros(len(y), 1, dtype=torch.float64), y)
    free_energy = -float(torch.logsumexp(log_p, 0)) - math.log(1e-3)
    p, q = (log_p + free_energy).exp().clamp(min=1e-300), flow.log_prob(y, context=y).exp()
    middle = 0.5 * (p + q)
    divergence = 0.5e-3 * (torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle)).sum()
    (expected,) = torch.autograd.grad(divergence, stretch.parameters_)

    samples = 400_000
    s, level = torch.zeros(samples, 1, dtype=torch.float64), torch.full((samples,), free_energy, dtype=torch.float64)
    path_gradient_step(flow, target, s, lambda t: t, generator, clip_norm=1e9, free_energy=level)
    torch.testing.assert_close(stretch.parameters_.grad, 4 * expected, rtol=0.02, atol=0)


def test_gradients_are_clipped_in_their_units(generator) -> None:
    problem = Problem(Shifted(), Ledger())
    target = ConditionalTarget(problem, problem.coordinates)
    s = torch.zeros(100, 1, dtype=torch.float64)
    found = {}
    for unit in (1.0, 0.5, 1e-6):
        stretch = Stretch()
        flow = of_one_coordinate(stretch)
        units = torch.tensor([[unit]], dtype=torch.float64)
        path_gradient_step(flow, target, s, lambda t: t, generator.manual_seed(1), clip_norm=0.1, units=units)
        found[unit] = float(stretch.parameters_.grad[0])
    path_gradient_step(flow, target, s, lambda t: t, generator.manual_seed(1), clip_norm=1e9)
    assert abs(found[1.0]) < abs(found[0.5]) < abs(found[1e-6])
    assert found[1e-6] == pytest.approx(0.5 * float(stretch.parameters_.grad[0]))  # its own, and the unclipped one
