"""The kernels in C++ against what they stand for in torch."""

from __future__ import annotations

import math

import pytest
import torch

from cgbench import native
from methods.flows.activations import silu
from methods.flows.native_splines import MAX_BINS, WORTH_A_THREAD, kernel
from methods.flows.splines import num_parameters, rational_quadratic_spline

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")

CIRCULAR = torch.tensor([True, False, True, False, False])
LOWER = torch.tensor([-math.pi, -5.0, -math.pi / 3, -2.0, -5.0], dtype=torch.float64)
UPPER = torch.tensor([math.pi, 5.0, math.pi / 3, 7.0, 5.0], dtype=torch.float64)
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-4}


def test_there_is_a_kernel() -> None:
    assert kernel() is not None


def problem(
    generator: torch.Generator, batch: int, *, shared: bool = False, bins: int = 8, dtype: torch.dtype = torch.float64
) -> list[torch.Tensor]:
    """Inputs in and out of bounds, parameters and offset."""
    options = {"generator": generator, "dtype": torch.float64}
    inputs = LOWER + (UPPER - LOWER) * (1.4 * torch.rand(batch, 5, **options) - 0.2)
    raw = torch.randn(1 if shared else batch, 5, num_parameters(bins), **options)
    offset = torch.randn(5, num_parameters(bins), **options)
    return [tensor.to(dtype).requires_grad_() for tensor in (inputs, raw, offset)]


def evaluate(tensors: list[torch.Tensor], inverse: bool, weights: torch.Tensor | None = None) -> list[torch.Tensor]:
    """Values, and gradients of a sum in which every value has a weight of its own."""
    inputs, raw, offset = tensors
    y, log_d = rational_quadratic_spline(inputs, raw, LOWER, UPPER, CIRCULAR, offset=offset, inverse=inverse)
    if weights is None:
        total = y.sin().sum() + log_d.sum(1).square().sum()  # the log-derivatives' gradients are one row, expanded
    else:
        total = (y * weights[0]).sum() + (log_d * weights[1]).sum()
    return [y, log_d, *torch.autograd.grad(total, tensors)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("batch", "shared", "bins"), [(1, False, 8), (37, False, 8), (203, True, 5), (64, False, 2)])
def test_splines(
    batch: int, shared: bool, bins: int, inverse: bool, dtype: torch.dtype, generator, monkeypatch
) -> None:
    tensors = problem(generator, batch, shared=shared, bins=bins, dtype=dtype)
    weights = torch.randn(2, batch, 5, generator=generator, dtype=torch.float64).to(dtype)
    ours = evaluate(tensors, inverse), evaluate(tensors, inverse, weights)
    monkeypatch.setenv("CGBENCH_NATIVE", "0")
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    theirs = evaluate(exact, inverse), evaluate(exact, inverse, weights.double())
    tolerance = TOLERANCE[dtype]
    for mine, true in zip((*ours[0], *ours[1]), (*theirs[0], *theirs[1]), strict=True):
        assert mine.dtype == dtype
        scale = float(true.detach().abs().max())
        torch.testing.assert_close(mine.double(), true, rtol=30 * tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("inverse", [False, True])
def test_a_result_does_not_depend_on_its_place_or_the_threads(inverse: bool, generator) -> None:
    batch = 2 * WORTH_A_THREAD // 5 + 3
    inputs, raw, offset = problem(generator, batch)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = evaluate([inputs, raw, offset], inverse)
        torch.set_num_threads(2)
        together = evaluate([inputs, raw, offset], inverse)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    for row in (0, 7, batch - 1):
        part = slice(row, row + 1)
        one = [inputs[part].detach().requires_grad_(), raw[part].detach().requires_grad_(), offset]
        single = evaluate(one, inverse)
        assert all(torch.equal(a, b[part]) for a, b in zip(single[:4], alone[:4], strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_numbers_stay_where_they_are(bad: float, generator) -> None:
    inputs, raw, offset = problem(generator, 50)
    good = evaluate([inputs, raw, offset], False)
    spoilt = raw.detach().clone()
    spoilt[13, 2, 3] = bad
    found = evaluate([inputs, spoilt.requires_grad_(), offset], False)
    assert bool(found[0][13, 2].isnan()) and bool(found[1][13, 2].isnan())
    others = torch.arange(50) != 13
    assert all(torch.equal(a[others], b[others]) for a, b in zip(found[:4], good[:4], strict=True))


def test_many_bins_are_left_to_torch(generator, monkeypatch) -> None:
    tensors = problem(generator, 4, bins=MAX_BINS + 1)
    ours = evaluate(tensors, False)
    monkeypatch.setenv("CGBENCH_NATIVE", "0")
    assert all(torch.equal(a, b) for a, b in zip(ours, evaluate(tensors, False), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_silu(dtype: torch.dtype, generator, monkeypatch) -> None:
    z = (20 * torch.randn(37, 23, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
    weight = torch.randn(37, 23, generator=generator, dtype=torch.float64).to(dtype)
    y = silu(z)
    (gradient,) = torch.autograd.grad((weight * y).sum(), z)
    monkeypatch.setenv("CGBENCH_NATIVE", "0")
    exact = z.detach().double().requires_grad_()
    true = silu(exact)
    (true_gradient,) = torch.autograd.grad((weight.double() * true).sum(), exact)
    accuracy = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(y.double(), true, rtol=accuracy, atol=accuracy)
    torch.testing.assert_close(gradient.double(), true_gradient, rtol=accuracy, atol=20 * accuracy)
