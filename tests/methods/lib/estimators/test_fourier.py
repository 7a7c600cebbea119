"""Fourier functions against numpy's and scipy's transforms, sums written out, finite differences and autograd."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import fft

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.lib.estimators.fourier import FourierAxis, FourierBasis, GridProducts, ProductSeries

TORUS = CollectiveVariables(("phi", "psi"), (-math.pi,) * 2, (math.pi,) * 2, (True, True), bins=(20, 20))
LINE = CollectiveVariables(("s",), (-2.5,), (1.1,), (False,), unit="")
STRIP = CollectiveVariables(("angle", "distance"), (0.0, 0.2), (2 * math.pi, 1.7), (True, False), bins=(24, 16))
DOMAINS = pytest.mark.parametrize("cvs", [TORUS, LINE, STRIP], ids=["torus", "line", "strip"])
PRODUCTS = pytest.mark.parametrize("product", [True, False])


def inside(cvs: CollectiveVariables, count: int, generator: torch.Generator) -> torch.Tensor:
    lower, upper = torch.tensor(cvs.lower, dtype=torch.float64), torch.tensor(cvs.upper, dtype=torch.float64)
    return lower + (upper - lower) * torch.rand(count, len(cvs), generator=generator, dtype=torch.float64)


# ---- one CV ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("periodic", [True, False])
def test_slopes_against_finite_differences(periodic: bool, generator) -> None:
    axis = FourierAxis(-0.7, 2.3, periodic, torch.tensor([1.3, 2.9, 5.1], dtype=torch.float64))
    assert len(axis) == (7 if periodic else 4)
    s, step = -0.6 + 2.8 * torch.rand(40, generator=generator, dtype=torch.float64), 1e-6
    numerical = (axis.values(s + step) - axis.values(s - step)) / (2 * step)
    torch.testing.assert_close(axis.slopes(s), numerical, rtol=0, atol=1e-7)
    values, slopes = axis.values_and_slopes(s)
    torch.testing.assert_close(values, axis.values(s), rtol=0, atol=0)
    torch.testing.assert_close(slopes, axis.slopes(s), rtol=1e-15, atol=1e-15)


def test_functions_are_constant_outside_a_domain_that_is_not_periodic() -> None:
    axis = FourierAxis(0.0, 2.0, False, torch.tensor([1.0, 2.5], dtype=torch.float64))
    ends, outside = torch.tensor([0.0, 2.0]).double(), torch.tensor([-3.0, 2.7]).double()
    assert torch.equal(axis.values(outside), axis.values(ends))
    assert not axis.slopes(outside).any() and axis.slopes(ends)[1].any()


# ---- products with a tensor of coefficients -------------------------------------------------------


def test_projection_along_a_periodic_cv_is_the_discrete_fourier_transform(generator) -> None:
    cvs = CollectiveVariables(("phi",), (-math.pi,), (math.pi,), (True,), bins=(32,))
    values = torch.randn(32, generator=generator, dtype=torch.float64)
    found = ProductSeries(cvs, 10).project(values).numpy()
    # bin centres are half a bin inside the domain
    shifted = np.fft.rfft(values.numpy())[1:11] * np.exp(-1j * np.pi * np.arange(1, 11) / 32) * math.sqrt(2) / 32
    np.testing.assert_allclose(found[0], values.mean(), atol=1e-14)
    np.testing.assert_allclose(found[1:11], shifted.real, atol=1e-14)
    np.testing.assert_allclose(found[11:], -shifted.imag, atol=1e-14)


def test_projection_along_another_cv_is_the_discrete_cosine_transform(generator) -> None:
    values = torch.randn(100, generator=generator, dtype=torch.float64)
    found = ProductSeries(LINE, 12).project(values).numpy()
    expected = fft.dct(values.numpy(), type=2)[:25] / 200 * np.r_[1.0, np.full(24, math.sqrt(2))]
    np.testing.assert_allclose(found, expected, atol=1e-14)


def test_a_product_series_is_the_sum_of_its_terms(generator) -> None:
    series = ProductSeries(STRIP, 2)
    coefficients = torch.randn(series.shape, generator=generator, dtype=torch.float64)
    s = inside(STRIP, 10, generator)

    def functions(angle: float, distance: float) -> tuple[list[float], list[float]]:
        t = math.pi * (distance - 0.2) / 1.5
        turns = [math.sqrt(2) * wave(k * angle) for wave in (math.cos, math.sin) for k in (1, 2)]
        return [1.0, *turns], [1.0, *(math.sqrt(2) * math.cos(k * t) for k in range(1, 5))]

    def term_by_term(point: list[float]) -> float:
        first, second = functions(*point)
        return sum(float(coefficients[i, j]) * a * b for i, a in enumerate(first) for j, b in enumerate(second))

    expected = torch.tensor([term_by_term(point) for point in s.tolist()], dtype=torch.float64)
    torch.testing.assert_close(series.evaluate(coefficients, s), expected, rtol=0, atol=1e-12)
    value, gradient = series.evaluate_with_gradient(coefficients, s)
    at = s.clone().requires_grad_()
    (slope,) = torch.autograd.grad(series.evaluate(coefficients, at).sum(), at)
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-12)


# ---- selected products ----------------------------------------------------------------------------


@pytest.mark.parametrize("cvs", [TORUS, LINE])
@PRODUCTS
def test_modes_are_orthonormal_on_their_domain(cvs, product) -> None:
    basis = FourierBasis(cvs, 3, product=product, margin=0.0)
    points = torch.from_numpy(cvs.grid(4))
    features = basis(points)
    gram = features.T @ features / len(points)
    torch.testing.assert_close(gram, torch.eye(len(basis), dtype=torch.float64), rtol=0, atol=1e-10)
    assert float(basis.squared_frequency[0]) == 0.0
    expected = {(TORUS, True): 49, (TORUS, False): 25, (LINE, True): 4, (LINE, False): 4}
    assert len(basis) == expected[cvs, product]


@DOMAINS
@PRODUCTS
def test_modes_have_the_frequencies_that_they_say(cvs, product, generator) -> None:
    """The Laplacian of a mode is minus its squared frequency times itself, where each domain is 2 pi wide."""
    basis = FourierBasis(cvs, 3, product=product)
    point = inside(cvs, 1, generator)[0]
    hessian = torch.func.jacfwd(torch.func.jacrev(lambda s: basis(s[None])[0]))(point)
    widths = torch.tensor([cvs.lower, cvs.upper], dtype=torch.float64).diff(dim=0)[0]
    laplacian = hessian.diagonal(dim1=1, dim2=2) @ (widths / (2 * math.pi)).square()
    torch.testing.assert_close(laplacian, -basis.squared_frequency * basis(point[None])[0], rtol=0, atol=1e-8)


@DOMAINS
@PRODUCTS
def test_modes_come_by_rising_total_wave_number(cvs, product) -> None:
    """Every wave number of a periodic CV has a cosine and a sine; that of another CV counts half waves."""
    basis = FourierBasis(cvs, 4, product=product)
    found = basis.squared_frequency.tolist()
    for total in range(1 + 4 * (len(cvs) if product else 1)):
        expected = []
        for waves in itertools.product(range(5), repeat=len(cvs)):
            if sum(waves) == total:
                columns = list(zip(waves, cvs.lower, cvs.upper, cvs.periodic, strict=True))
                modes = 2 ** sum(k > 0 and periodic for k, _, _, periodic in columns)
                square = sum((k if periodic else k / (2 * 1.2)) ** 2 for k, _, _, periodic in columns)
                expected += modes * [square]
        here, found = found[: len(expected)], found[len(expected) :]
        np.testing.assert_allclose(sorted(here), sorted(expected), rtol=1e-12)
    assert not found


@DOMAINS
@PRODUCTS
def test_series_and_derivatives(cvs, product, generator) -> None:
    basis = FourierBasis(cvs, 4, product=product)
    coefficients = torch.randn(len(basis), generator=generator, dtype=torch.float64)
    s = torch.from_numpy(cvs.grid()).clone().requires_grad_()
    values = basis(s) @ coefficients
    (slopes,) = torch.autograd.grad(values.sum(), s)
    found = basis.series(s.detach(), coefficients)
    torch.testing.assert_close(found[:, 0], values.detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(found[:, 1:], slopes, rtol=0, atol=1e-10)
    for axis in range(len(cvs)):
        torch.testing.assert_close(basis(s.detach(), axis) @ coefficients, slopes[:, axis], rtol=0, atol=1e-10)
    assert basis.series(s.detach()[:0], coefficients).shape == (0, 1 + len(cvs))


@pytest.mark.parametrize("derivative", [None, 0, 1, 2])
def test_sums_of_products_on_a_grid(derivative, generator) -> None:
    cvs = CollectiveVariables(("a", "b", "c"), (-3.0, 0.2, 1.0), (3.0, 1.7, 5.0), (True, False, True), bins=(7, 6, 5))
    basis = FourierBasis(cvs, 3, product=True)
    products = GridProducts(basis, cvs)
    modes = basis(torch.from_numpy(cvs.grid()), derivative)
    weights = torch.rand(len(modes), generator=generator, dtype=torch.float64)
    expected = modes.T @ (weights[:, None] * modes)
    torch.testing.assert_close(products.gram(weights, derivative), expected, rtol=0, atol=1e-10)
    sums = basis.sum_on_product_grid(products.centres, weights.reshape(cvs.bins), derivative)
    torch.testing.assert_close(sums, modes.T @ weights, rtol=0, atol=1e-11)
    if derivative is None:
        matrix = expected / 100
        torch.testing.assert_close(products.quadratic_form(matrix), ((modes @ matrix) * modes).sum(1))
