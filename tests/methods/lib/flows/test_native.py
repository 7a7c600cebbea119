"""The kernels in C++ against what they stand for in torch."""

from __future__ import annotations

import math

import pytest
import torch

from cgbench import native
from cgbench_methods.lib.flows.conditioner import Conditioner
from cgbench_methods.lib.flows.native_splines import MAX_BINS, SOURCE, WORTH_A_THREAD
from cgbench_methods.lib.flows.splines import num_parameters, rational_quadratic_spline

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")

CIRCULAR = torch.tensor([True, False, True, False, False])
LOWER = torch.tensor([-math.pi, -5.0, -math.pi / 3, -2.0, -5.0], dtype=torch.float64)
UPPER = torch.tensor([math.pi, 5.0, math.pi / 3, 7.0, 5.0], dtype=torch.float64)
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-4}


def test_there_is_a_kernel() -> None:
    assert native.library(SOURCE) is not None


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
@pytest.mark.parametrize("context_size", [0, 3])
@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_conditioner(blocks: int, context_size: int, dtype: torch.dtype, generator, monkeypatch) -> None:
    network = conditioner(blocks, context_size, dtype, generator)
    features = torch.randn(6, 37, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    context = None
    if context_size:
        context = torch.randn(37, context_size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(5, 37, generator=generator, dtype=torch.float64)
    leaves = [features, *([] if context is None else [context]), *network.parameters()]

    def evaluate() -> list[torch.Tensor]:
        outputs = network(features, context)
        total = (weight.to(dtype) * outputs).sum()
        once = torch.autograd.grad(total, leaves, retain_graph=True)
        again = torch.autograd.grad(total, leaves)  # path gradients go through a graph twice
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
        return [outputs, *once]

    ours = evaluate()
    monkeypatch.setenv("CGBENCH_NATIVE", "0")
    accuracy = 1e-12 if dtype == torch.float64 else 1e-4
    for mine, true in zip(ours, evaluate(), strict=True):
        assert mine.shape == true.shape
        torch.testing.assert_close(mine, true, rtol=accuracy, atol=accuracy)


def conditioner(blocks: int, context_size: int, dtype: torch.dtype, generator: torch.Generator) -> Conditioner:
    network = Conditioner(6, context_size, 5, hidden_features=19, num_blocks=blocks, dtype=dtype)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


def test_conditioner_with_fixed_weights(generator, monkeypatch) -> None:
    """Weights that want no gradient get none, and cost nothing; the inputs' gradients are the same."""
    network = conditioner(1, 3, torch.float64, generator)
    features = torch.randn(6, 50, generator=generator, dtype=torch.float64).requires_grad_()
    context = torch.randn(50, 3, generator=generator, dtype=torch.float64).requires_grad_()
    (whole, whole_context) = torch.autograd.grad(network(features, context).sin().sum(), (features, context))
    network.requires_grad_(False)
    network(features, context).sin().sum().backward()
    torch.testing.assert_close(features.grad, whole, rtol=0, atol=0)
    torch.testing.assert_close(context.grad, whole_context, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in network.parameters())
