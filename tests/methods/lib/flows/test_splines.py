"""Splines against normflows' and nflows', their inverses, derivatives and seams."""

from __future__ import annotations

import math

import nflows.transforms.splines.rational_quadratic as nflows_splines
import pytest
import torch
from normflows.utils import splines as normflows_splines

from cgbench_methods.lib.flows.splines import UNIT_DERIVATIVE, num_parameters, rational_quadratic_spline

BINS = 8


def parameters(batch: int, dims: int, generator: torch.Generator, scale: float = 1.5) -> torch.Tensor:
    return scale * torch.randn(batch, dims, num_parameters(BINS), generator=generator, dtype=torch.float64)


def bounds(dims: int, bound: float) -> tuple[torch.Tensor, torch.Tensor]:
    upper = torch.full((dims,), bound, dtype=torch.float64)
    return -upper, upper


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("circular", [False, True])
def test_equal_to_normflows(circular: bool, inverse: bool, generator) -> None:
    bound = math.pi if circular else 5.0
    lower, upper = bounds(3, bound)
    raw = parameters(400, 3, generator)
    inputs = (1.0 if circular else 1.3) * bound * (2 * torch.rand(400, 3, generator=generator, dtype=torch.float64) - 1)
    widths, heights, slopes = raw.split(BINS, dim=-1)
    slopes = slopes + UNIT_DERIVATIVE
    slopes = slopes if circular else slopes[..., 1:]
    theirs = normflows_splines.unconstrained_rational_quadratic_spline(
        inputs, widths, heights, slopes, inverse=inverse, tails="circular" if circular else "linear", tail_bound=bound
    )
    ours = rational_quadratic_spline(inputs, raw, lower, upper, torch.full((3,), circular), inverse=inverse)
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(ours[1], theirs[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("inverse", [False, True])
def test_equal_to_nflows(inverse: bool, generator) -> None:
    lower, upper = bounds(3, 5.0)
    raw = parameters(400, 3, generator)
    inputs = 6.0 * (2 * torch.rand(400, 3, generator=generator, dtype=torch.float64) - 1)
    widths, heights, slopes = raw.split(BINS, dim=-1)
    theirs = nflows_splines.unconstrained_rational_quadratic_spline(
        inputs, widths, heights, slopes[..., 1:] + UNIT_DERIVATIVE, inverse=inverse, tails="linear", tail_bound=5.0
    )
    ours = rational_quadratic_spline(inputs, raw, lower, upper, torch.zeros(3, dtype=torch.bool), inverse=inverse)
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(ours[1], theirs[1], rtol=0, atol=1e-9)


MIXED = torch.tensor([True, False, True, False])
LOWER = torch.tensor([-math.pi, -5.0, -math.pi / 3, -2.0], dtype=torch.float64)
UPPER = torch.tensor([math.pi, 5.0, math.pi / 3, 7.0], dtype=torch.float64)


def test_round_trip_with_bounds_of_each_dimension(generator) -> None:
    raw = parameters(2000, 4, generator, scale=1.0)
    inputs = LOWER + (UPPER - LOWER) * torch.rand(2000, 4, generator=generator, dtype=torch.float64)
    outputs, log_derivative = rational_quadratic_spline(inputs, raw, LOWER, UPPER, MIXED)
    back, log_derivative_back = rational_quadratic_spline(outputs, raw, LOWER, UPPER, MIXED, inverse=True)
    torch.testing.assert_close(back, inputs, rtol=0, atol=1e-10)
    torch.testing.assert_close(log_derivative_back, -log_derivative, rtol=0, atol=1e-8)


def test_log_derivative_against_autograd(generator) -> None:
    raw = parameters(200, 4, generator)
    inputs = (LOWER + (UPPER - LOWER) * torch.rand(200, 4, generator=generator, dtype=torch.float64)).requires_grad_()
    for inverse in (False, True):
        outputs, log_derivative = rational_quadratic_spline(inputs, raw, LOWER, UPPER, MIXED, inverse=inverse)
        (slope,) = torch.autograd.grad(outputs.sum(), inputs)
        torch.testing.assert_close(log_derivative, slope.log(), rtol=0, atol=1e-8)


def test_value_and_derivative_continue_across_the_seam(generator) -> None:
    raw = parameters(100, 1, generator)
    lower, upper = bounds(1, math.pi)
    circular = torch.ones(1, dtype=torch.bool)
    near = 1e-12
    ends = [torch.full((100, 1), end, dtype=torch.float64) for end in (math.pi - near, -math.pi + near)]
    (below, slope_below), (above, slope_above) = (
        rational_quadratic_spline(end, raw, lower, upper, circular) for end in ends
    )
    gap = torch.remainder(below - above + math.pi, 2 * math.pi) - math.pi
    assert float(gap.abs().max()) < 1e-6
    torch.testing.assert_close(slope_below, slope_above, rtol=0, atol=1e-6)
    period, _ = rational_quadratic_spline(ends[0] + 4 * math.pi, raw, lower, upper, circular)
    torch.testing.assert_close(period, below, rtol=0, atol=1e-9)


def test_zero_parameters_are_the_identity_and_tails_are_linear(generator) -> None:
    raw = torch.zeros(1, 4, num_parameters(BINS), dtype=torch.float64)
    inputs = LOWER + (UPPER - LOWER) * torch.rand(100, 4, generator=generator, dtype=torch.float64)
    outputs, log_derivative = rational_quadratic_spline(inputs, raw, LOWER, UPPER, MIXED)
    torch.testing.assert_close(outputs, inputs, rtol=0, atol=1e-12)
    torch.testing.assert_close(log_derivative, torch.zeros_like(inputs), rtol=0, atol=1e-12)
    outside = torch.tensor([[0.0, 8.0, 0.0, 9.5]], dtype=torch.float64)
    outputs, log_derivative = rational_quadratic_spline(outside, parameters(1, 4, generator), LOWER, UPPER, MIXED)
    torch.testing.assert_close(outputs[:, [1, 3]], outside[:, [1, 3]])
    assert log_derivative[:, [1, 3]].tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_gradients_in_inputs_and_parameters_against_finite_differences(inverse, shared, generator) -> None:
    inputs = LOWER + (UPPER - LOWER) * torch.rand(6, 4, generator=generator, dtype=torch.float64)
    raw = parameters(1 if shared else 6, 4, generator, scale=1.0)
    assert torch.autograd.gradcheck(
        lambda x, p: rational_quadratic_spline(x, p, LOWER, UPPER, MIXED, inverse=inverse),
        (inputs.requires_grad_(), raw.requires_grad_()),
    )


@pytest.mark.parametrize("wrong", ["batch", "dims", "rows", "lower", "offset"])
def test_shapes_that_do_not_fit(wrong: str, generator) -> None:
    inputs, raw = torch.zeros(5, 4, dtype=torch.float64), parameters(5, 4, generator)
    lower, offset = LOWER, torch.zeros(raw.shape[1:], dtype=torch.float64)
    raw = {"batch": raw[:3], "dims": raw[:, :3], "rows": raw[..., 1:]}.get(wrong, raw)
    lower = lower[:3] if wrong == "lower" else lower
    offset = offset[:, 3:] if wrong == "offset" else offset
    with pytest.raises(ValueError, match="inputs"):
        rational_quadratic_spline(inputs, raw, lower, UPPER, MIXED, offset=offset)
