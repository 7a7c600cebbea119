"""Weighted samples from training steps: log-weights and their slopes along the CVs."""

from __future__ import annotations

import torch

from cgbench.contracts.problem import Problem
from cgbench.counting.ledger import Ledger
from cgbench_methods.cgflow.common.stack import conditional_flow
from cgbench_methods.cgflow.common.training import path_gradient_step, plain_gradient_step
from cgbench_methods.cgflow.harmonic.affine import fit_to_minima
from cgbench_methods.cgflow.harmonic.atlas.minima import HarmonicMinima
from cgbench_methods.lib.estimators.fourier import FourierBasis
from cgbench_methods.lib.flows.build import ConditionalFlow
from cgbench_methods.lib.flows.target import ConditionalTarget
from cgbench_systems.muller_brown import MullerBrown


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
    log_weights, slopes = path_gradient_step(flow, target, s, basis, generator.manual_seed(5), clip_norm=1.0)
    assert problem.evaluations - before == 30  # slopes are free
    assert all(p.grad is not None for p in flow.parameters())
    again, same = path_gradient_step(flow, target, s, basis, generator.manual_seed(5), clip_norm=None)
    torch.testing.assert_close(again, log_weights)
    torch.testing.assert_close(same, slopes, rtol=1e-6, atol=1e-6)  # clipping acts on the parameters alone
    plain, also = plain_gradient_step(flow, target, s, basis, generator.manual_seed(5), clip_norm=1.0)
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
    log_weights, slopes = path_gradient_step(flow, target, s, basis, generator, clip_norm=None)
    weights = (log_weights - log_weights.max()).exp()
    mean = float((weights * slopes[:, 0]).sum() / weights.sum())
    assert abs(mean - expected) < 0.005 * abs(expected)  # a second minimum far off makes a heavy tail
