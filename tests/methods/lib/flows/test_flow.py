"""Couplings, base and conditional flow on a product of circles and lines."""

from __future__ import annotations

import copy
import functools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from cgbench_methods.lib.flows.build import ConditionalFlow, fixed_parameters, spline_coupling_flow
from cgbench_methods.lib.flows.couplings import CircularShift, SplineCoupling
from cgbench_methods.lib.flows.distributions import UniformGaussian

CIRCULAR = torch.tensor([True, False, True, False, False])
LOWER = torch.tensor([-math.pi, -5.0, -math.pi / 3, -5.0, -5.0], dtype=torch.float64)
UPPER = -LOWER


def build(generator: torch.Generator, context: int = 3, scramble: float = 0.05) -> ConditionalFlow:
    transform = spline_coupling_flow(
        circular=CIRCULAR,
        lower=LOWER,
        upper=UPPER,
        generator=generator,
        context_features=context,
        num_couplings=4,
        hidden_features=16,
    )
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter += scramble * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return ConditionalFlow(transform, UniformGaussian(LOWER, UPPER, CIRCULAR))


def inputs_for(generator: torch.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    y = 0.5 * (UPPER - LOWER) * (2 * torch.rand(count, 5, generator=generator, dtype=torch.float64) - 1)
    return y, torch.randn(count, 3, generator=generator, dtype=torch.float64)


def test_round_trip(generator) -> None:
    flow = build(generator)
    y, context = inputs_for(generator, 1000)
    noise, log_det = flow._transform(y, context=context)
    back, log_det_back = flow._transform.inverse(noise, context=context)
    torch.testing.assert_close(back, y, rtol=0, atol=1e-10)
    torch.testing.assert_close(log_det_back, -log_det, rtol=0, atol=1e-8)


def test_log_det_against_autograd(generator) -> None:
    flow = build(generator)
    y, context = inputs_for(generator, 20)
    for transform in (flow._transform, flow._transform.inverse):
        _, log_det = transform(y, context=context)
        for row in range(len(y)):
            one = functools.partial(transform, context=context[row : row + 1])
            jacobian = torch.autograd.functional.jacobian(lambda v, one=one: one(v[None])[0][0], y[row])
            assert float(log_det[row].detach()) == pytest.approx(
                float(torch.linalg.slogdet(jacobian).logabsdet), abs=1e-8
            )


def test_density_is_continuous_across_the_seam(generator) -> None:
    flow = build(generator)
    y, context = inputs_for(generator, 100)
    for axis in CIRCULAR.nonzero().squeeze(1).tolist():
        below, above = y.clone(), y.clone()
        below[:, axis], above[:, axis] = UPPER[axis] - 1e-12, LOWER[axis] + 1e-12
        torch.testing.assert_close(flow.log_prob(below, context), flow.log_prob(above, context), rtol=0, atol=1e-8)


def test_transform_has_a_continuous_derivative_across_the_seam(generator) -> None:
    flow = build(generator)
    y, context = inputs_for(generator, 50)
    for axis in CIRCULAR.nonzero().squeeze(1).tolist():
        jacobians = []
        for end in (LOWER[axis] + 1e-12, UPPER[axis] - 1e-12):
            at = y.clone()
            at[:, axis] = end
            jacobians.append(
                torch.autograd.functional.jacobian(lambda v: flow._transform(v, context=context)[0].sum(0), at)
            )
        torch.testing.assert_close(jacobians[0], jacobians[1], rtol=1e-6, atol=1e-6)


def test_identity_at_the_start(generator) -> None:
    flow = build(generator, scramble=0.0)
    y, context = inputs_for(generator, 100)
    transform = spline_coupling_flow(
        circular=CIRCULAR,
        lower=LOWER,
        upper=UPPER,
        generator=generator,
        context_features=3,
        num_couplings=4,
        hidden_features=16,
        random_shift=False,
    )
    noise, log_det = transform(y, context=context)
    torch.testing.assert_close(noise, y, rtol=0, atol=1e-12)
    torch.testing.assert_close(log_det, torch.zeros(100, dtype=torch.float64), rtol=0, atol=1e-12)
    base = UniformGaussian(LOWER, UPPER, CIRCULAR)
    torch.testing.assert_close(flow.log_prob(y, context), base.log_prob(y), rtol=0, atol=1e-10)


def test_base_is_normalised_and_sampled(generator) -> None:
    base = UniformGaussian(LOWER, UPPER, CIRCULAR)
    noise = base.sample_base(20_000, generator)
    for axis in range(5):
        column = noise[:, axis].numpy()
        span = float(UPPER[axis] - LOWER[axis])
        law = stats.uniform(float(LOWER[axis]), span) if CIRCULAR[axis] else stats.norm()
        assert stats.kstest(column, law.cdf).pvalue > 1e-3
    expected = sum(
        -math.log(float(UPPER[a] - LOWER[a])) if CIRCULAR[a] else float(stats.norm.logpdf(noise[0, a]))
        for a in range(5)
    )
    assert float(base.log_prob(noise[:1])) == pytest.approx(expected, abs=1e-12)


def test_wide_dimensions_are_a_mixture_of_two_normals(generator) -> None:
    line = torch.zeros(2, dtype=torch.float64)
    base = UniformGaussian(line, line, torch.tensor([False, False]), wide=torch.tensor([1]))
    noise = base.sample_base(40_000, generator)
    assert stats.kstest(noise[:, 0].numpy(), "norm").pvalue > 1e-3

    def both(function: str, x: np.ndarray) -> np.ndarray:
        return 0.9 * getattr(stats.norm(), function)(x) + 0.1 * getattr(stats.norm(scale=3.0), function)(x)

    assert stats.kstest(noise[:, 1].numpy(), lambda x: both("cdf", x)).pvalue > 1e-3
    expected = stats.norm.logpdf(noise[:, 0].numpy()) + np.log(both("pdf", noise[:, 1].numpy()))
    np.testing.assert_allclose(base.log_prob(noise).numpy(), expected, rtol=0, atol=1e-10)


def test_samples_follow_the_density(generator) -> None:
    """Samples of the flow against its own density, integrated on a grid of one circle."""
    circular = torch.tensor([True])
    lower, upper = torch.tensor([-math.pi]).double(), torch.tensor([math.pi]).double()
    transform = spline_coupling_flow(
        circular=circular, lower=lower, upper=upper, generator=generator, context_features=1, num_couplings=2
    )
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    flow = ConditionalFlow(transform, UniformGaussian(lower, upper, circular))
    count = 20_000
    context = torch.zeros(count, 1, dtype=torch.float64)
    y, log_q = flow.sample_with_log_prob(context, generator)
    torch.testing.assert_close(flow.log_prob(y, context), log_q, rtol=0, atol=1e-9)
    edges = np.linspace(-math.pi, math.pi, 41)
    middle = torch.linspace(-math.pi, math.pi, 4001, dtype=torch.float64)[:-1] + math.pi / 4000
    density = flow.log_prob(middle[:, None], torch.zeros(4000, 1, dtype=torch.float64)).exp().detach().numpy()
    assert density.sum() * 2 * math.pi / 4000 == pytest.approx(1.0, abs=1e-4)
    counts, _ = np.histogram(torch.remainder(y[:, 0] + math.pi, 2 * math.pi).detach().numpy() - math.pi, bins=edges)
    expected = density.reshape(40, 100).mean(1) * 2 * math.pi / 40 * count
    assert stats.chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3


def test_path_gradient_vanishes_for_every_sample_when_the_flow_is_exact(generator) -> None:
    """With the flow itself as target, samples' total derivatives cancel one by one, unlike the plain gradient's."""
    flow = build(generator)
    fixed = copy.deepcopy(flow)
    for parameter in fixed.parameters():
        parameter.requires_grad_(False)
    _, context = inputs_for(generator, 64)
    y, _, score, _ = flow.sample_with_scores(context, generator)
    loss = -fixed.log_prob(y, context).sum() + (score * y).sum()
    gradients = torch.autograd.grad(loss, list(flow.parameters()), allow_unused=True)
    assert max(float(g.abs().max()) for g in gradients if g is not None) < 1e-8
    y, log_q = flow.sample_with_log_prob(context, generator)
    loss = (-fixed.log_prob(y, context) + log_q).sum()
    gradients = torch.autograd.grad(loss, list(flow.parameters()), allow_unused=True)
    assert max(float(g.abs().max()) for g in gradients if g is not None) > 1e-2


def test_scores_are_the_derivatives_of_the_log_density(generator) -> None:
    flow = build(generator)
    _, context = inputs_for(generator, 64)
    y, log_q, score, context_score = flow.sample_with_scores(context, generator)
    y, context = y.detach(), context.detach()
    torch.testing.assert_close(flow.log_prob(y, context).detach(), log_q, rtol=0, atol=1e-8)
    for moved, derivative in ((0, score), (1, context_score)):
        step = 1e-6 * torch.randn(derivative.shape, generator=generator, dtype=torch.float64)
        ends = [
            flow.log_prob(*(t + sign * step if k == moved else t for k, t in enumerate((y, context))))
            for sign in (1, -1)
        ]
        difference = (ends[0] - ends[1]).detach()
        error = (difference - 2 * (step * derivative).sum(1)).abs() / difference.abs().mean()
        assert float(error.median()) < 1e-5  # a spline's second derivative jumps at knots


def test_building_leaves_the_global_generator_alone(generator) -> None:
    before = torch.random.get_rng_state()
    build(generator)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_same_seed_same_flow() -> None:
    first, second = (build(torch.Generator().manual_seed(3)) for _ in range(2))
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_circular_shift_turns_only_circles(generator) -> None:
    shift = CircularShift(torch.full((5,), 1.0, dtype=torch.float64), LOWER, UPPER, CIRCULAR)
    y, _ = inputs_for(generator, 50)
    there, log_det = shift(y)
    back, _ = shift.inverse(there)
    torch.testing.assert_close(back, y, rtol=0, atol=1e-12)
    assert torch.equal(there[:, ~CIRCULAR], y[:, ~CIRCULAR]) and float(log_det.abs().max()) == 0.0
    assert bool((there[:, CIRCULAR] <= UPPER[CIRCULAR]).all())


def test_a_coupling_needs_something_to_condition_on() -> None:
    with pytest.raises(ValueError, match="condition on"):
        SplineCoupling(torch.ones(2, dtype=torch.bool), LOWER[:2], UPPER[:2], CIRCULAR[:2])


def test_fixed_parameters_change_no_result_and_train_no_more(generator) -> None:
    flow = build(generator)
    y, context = inputs_for(generator, 20)
    first = next(flow.parameters()).requires_grad_(False)
    y = y.requires_grad_()
    (gradient,) = torch.autograd.grad(flow.log_prob(y, context).sum(), y)
    with fixed_parameters(flow):
        value = flow.log_prob(y, context).sum()
        (same,) = torch.autograd.grad(value, y, retain_graph=True)
        with pytest.raises(RuntimeError, match="differentiated"):
            torch.autograd.grad(value, list(flow.parameters()))
    assert torch.equal(same, gradient)
    assert not first.requires_grad and all(parameter.requires_grad for parameter in list(flow.parameters())[1:])
