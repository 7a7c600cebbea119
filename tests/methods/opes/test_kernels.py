"""Kernels and bias of OPES against formulas written out a second time, one kernel at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.opes.kernels import Kernels, Shape
from cgbench_methods.opes.table import BiasTable, KernelSums

PI = math.pi
TORUS = CollectiveVariables(("phi", "psi"), (-PI, -PI), (PI, PI), (True, True))
LINE = CollectiveVariables(("s",), (-2.5,), (1.1,), (False,))
MIXED = CollectiveVariables(("a", "r", "b"), (-PI, 0.0, -PI), (PI, 2.0, PI), (True, False, True), (24, 24, 24))
METAD, EXPLORE = Shape(12.0, 8.0), Shape(12.0, 8.0, explore=True)


class ByHand:
    """The published update, for one kernel after the other, with plain numbers and lists."""

    def __init__(self, periods: list[float | None], shape: Shape, sigma0: list[float], sigma_min: list[float]) -> None:
        g, self.explore, self.periods, self.sigma_min = shape.bias_factor, shape.explore, periods, sigma_min
        self.a = g - 1 if shape.explore else 1 - 1 / g
        self.sigma0 = [each * math.sqrt(g) for each in sigma0] if shape.explore else sigma0
        self.epsilon = math.exp(-shape.barrier / self.a)
        cutoff = math.sqrt(2 * shape.barrier / (1 if shape.explore else self.a))
        self.cutoff, self.at_cutoff = cutoff, math.exp(-(cutoff**2) / 2)
        self.sum_w = self.epsilon**self.a
        self.sum_w2, self.counter, self.z = self.sum_w**2, 1, 1.0
        self.kernels: list[tuple[float, list[float], list[float]]] = []

    def apart(self, axis: int, a: float, b: float) -> float:
        period = self.periods[axis]
        return a - b if period is None else math.remainder(a - b, period)

    def total(self, s: Any) -> float:
        result = 0.0
        for height, centre, sigma in self.kernels:
            r2 = sum((self.apart(i, s[i], centre[i]) / sigma[i]) ** 2 for i in range(len(s)))
            if r2 < self.cutoff**2:
                result += height * (math.exp(-r2 / 2) - self.at_cutoff)
        return result

    def norm(self) -> float:
        return self.counter if self.explore else self.sum_w

    def bias(self, s: Any) -> float:
        return self.a * math.log(self.total(s) / self.norm() / self.z + self.epsilon)

    def deposit(self, walkers: Any, biases: Any) -> None:
        weights = [math.exp(v) for v in biases]
        self.counter += len(weights)
        self.sum_w += sum(weights)
        self.sum_w2 += sum(w * w for w in weights)
        size = self.counter if self.explore else (1 + self.sum_w) ** 2 / (1 + self.sum_w2)
        d = len(self.sigma0)
        scale = (size * (d + 2) / 4) ** (-1 / (d + 4))
        sigma = [max(s * scale, least) for s, least in zip(self.sigma0, self.sigma_min, strict=True)]
        for place, weight in zip(walkers, weights, strict=True):
            height = 1.0 if self.explore else weight
            for new, first in zip(sigma, self.sigma0, strict=True):
                height *= first / new
            self.add((height, list(place), sigma))
        self.z = sum(self.total(centre) for _, centre, _ in self.kernels) / self.norm() / len(self.kernels)

    def nearest(self, centre: list[float]) -> int | None:
        found, least = None, 1.0
        for k, (_, other, sigma) in enumerate(self.kernels):
            r2 = sum((self.apart(i, centre[i], other[i]) / sigma[i]) ** 2 for i in range(len(centre)))
            if r2 < least:
                found, least = k, r2
        return found

    def add(self, kernel: tuple[float, list[float], list[float]]) -> None:
        k = self.nearest(kernel[1])
        if k is None:
            self.kernels.append(kernel)
            return
        # a merged kernel is a new kernel without those that it was made of
        self.add(self.merged(self.kernels.pop(k), kernel))

    def merged(self, one: Any, two: Any) -> tuple[float, list[float], list[float]]:
        (h1, c1, s1), (h2, c2, s2) = one, two
        h, centre, sigma = h1 + h2, [], []
        for i in range(len(c1)):
            a, b = c2[i] + self.apart(i, c1[i], c2[i]), c2[i]
            c = (h1 * a + h2 * b) / h
            sigma.append(math.sqrt((h1 * (s1[i] ** 2 + a * a) + h2 * (s2[i] ** 2 + b * b)) / h - c * c))
            centre.append(c if self.periods[i] is None else math.remainder(c, self.periods[i]))
        return h, centre, sigma


def places(cvs: CollectiveVariables, count: int, seed: int) -> np.ndarray:
    """Points in two clusters, one of which is across the boundary of periodic CVs."""
    random = np.random.default_rng(seed)
    low, high = np.array(cvs.lower), np.array(cvs.upper)
    middle = np.where(random.random((count, 1)) < 0.5, low + 0.02 * (high - low), low + 0.6 * (high - low))
    s = middle + 0.05 * (high - low) * random.standard_normal((count, len(cvs)))
    return np.where(cvs.periodic, cvs.wrap(s), np.clip(s, low, high))


def pair(cvs: CollectiveVariables, shape: Shape, first: float = 0.3, least: float = 0.1) -> tuple[Kernels, ByHand]:
    periods = [high - low if p else None for low, high, p in zip(cvs.lower, cvs.upper, cvs.periodic, strict=True)]
    d = len(cvs)
    return Kernels(cvs, shape, [first] * d, [least] * d), ByHand(periods, shape, [first] * d, [least] * d)


def agree(kernels: Kernels, by_hand: ByHand) -> None:
    """The same kernels, in any order, and the same sums and normalisation."""
    rows = np.column_stack([kernels.heights, kernels.centres, kernels.widths])
    hand = np.array([[h, *c, *s] for h, c, s in by_hand.kernels])
    assert rows.shape == hand.shape
    np.testing.assert_allclose(rows[np.lexsort(rows.T[1:2])], hand[np.lexsort(hand.T[1:2])], rtol=1e-9, atol=1e-12)
    assert kernels.z == pytest.approx(by_hand.z, rel=1e-9)
    assert (kernels.sum_weights, kernels.sum_squares) == pytest.approx((by_hand.sum_w, by_hand.sum_w2), rel=1e-9)


@pytest.mark.parametrize("shape", [METAD, EXPLORE], ids=["metad", "explore"])
@pytest.mark.parametrize("cvs", [LINE, TORUS, MIXED], ids=["line", "torus", "mixed"])
def test_ten_kernels_of_one_walker(cvs: CollectiveVariables, shape: Shape) -> None:
    """Widths, heights, merges, normalisation and bias after each of ten deposits, each under the bias before."""
    kernels, by_hand = pair(cvs, shape)
    probes = places(cvs, 40, 1)
    assert kernels.bias(probes) == pytest.approx(-12.0)  # no kernel yet: minus the barrier
    for s in places(cvs, 10, 0):
        bias = float(kernels.bias(s[None])[0])
        assert bias == pytest.approx(by_hand.bias(s), abs=1e-9)
        kernels.deposit(s[None], np.array([bias]))
        by_hand.deposit([s], [bias])
        agree(kernels, by_hand)
        np.testing.assert_allclose(kernels.bias(probes), [by_hand.bias(each) for each in probes], atol=1e-9)
    assert 1 < len(kernels) < 10  # some merged, some did not


def test_many_walkers_deposit_one_after_the_other() -> None:
    kernels, by_hand = pair(TORUS, METAD)
    for seed in range(6):
        s = places(TORUS, 16, seed)
        bias = kernels.bias(s)
        kernels.deposit(s, bias)
        by_hand.deposit(s, bias)
        agree(kernels, by_hand)
    assert kernels.counter == 1 + 6 * 16


def test_kernels_merge_across_the_boundary() -> None:
    """Two equal kernels at 3.1 and -3.1 merge at pi, and not at 0."""
    kernels, _ = pair(TORUS, METAD, first=0.5, least=0.5)
    kernels.deposit(np.array([[3.1, 0.0], [-3.1, 0.0]]), np.zeros(2))
    apart = 2 * (PI - 3.1)
    assert len(kernels) == 1 and abs(kernels.centres[0, 0]) == pytest.approx(PI)
    assert kernels.widths[0] == pytest.approx([math.sqrt(0.25 + apart**2 / 4), 0.5])
    assert kernels.bias(np.array([[-PI, 0.1]])) == pytest.approx(kernels.bias(np.array([[PI, 0.1]])))


def test_a_merged_kernel_merges_on() -> None:
    """The third kernel joins the second, and the sum is then close enough to the first."""
    kernels, _ = pair(LINE, METAD, first=0.1, least=0.1)
    kernels.deposit(np.array([[0.0], [0.11], [0.06]]), np.zeros(3))
    assert len(kernels) == 1 and kernels.centres[0, 0] == pytest.approx(0.17 / 3)
    assert kernels.heights[0] == pytest.approx(3.0)


def test_kernels_vanish_beyond_the_cutoff() -> None:
    kernels, _ = pair(LINE, METAD, first=0.1, least=0.1)
    kernels.deposit(np.array([[-2.0]]), np.zeros(1))
    reach = METAD.cutoff * 0.1
    inside, outside = kernels.sums(np.array([[-2.0 + 0.999 * reach], [-2.0 + 1.001 * reach]]))
    assert 0 < inside < 1e-6 and outside == 0
    assert kernels.bias(np.array([[-2.0 + 1.001 * reach]])) == pytest.approx(-12.0)


def test_deposits_change_the_kernels_as_reported() -> None:
    """The sums at nodes, updated change by change, are those of all kernels; nothing happens without walkers."""
    for cvs, intervals in ((LINE, [40]), (TORUS, [36, 30]), (MIXED, [16, 14, 12])):
        kernels, _ = pair(cvs, METAD, first=0.5, least=0.2)
        sums = KernelSums(kernels, intervals)
        for seed in range(5):
            s = places(cvs, 8, seed)
            sums.update(kernels.deposit(s, kernels.bias(s)))
        sums.update(kernels.deposit(np.zeros((0, len(cvs))), np.zeros(0)))
        nodes = np.stack(np.meshgrid(*sums.nodes, indexing="ij"), axis=-1).reshape(-1, len(cvs))
        np.testing.assert_allclose(sums.values.ravel(), kernels.sums(nodes), rtol=1e-9, atol=1e-12)


def table(cvs: CollectiveVariables, shape: Shape = METAD, least: float = 0.02) -> tuple[Kernels, BiasTable]:
    """The table that the method would use, with kernels of the smallest width."""
    domain = np.array(cvs.upper) - np.array(cvs.lower)
    kernels = Kernels(cvs, shape, 2 * least * domain, least * domain)
    intervals = [math.ceil(2.0 / least)] * len(cvs)
    sums, found = KernelSums(kernels, intervals), BiasTable(cvs, intervals, -shape.barrier)
    random = np.random.default_rng(0)
    for _ in range(20):
        s = np.array(cvs.lower) + domain * random.random((50, len(cvs)))
        sums.update(kernels.deposit(s, kernels.bias(s)))
    found.set(kernels.bias_of(sums.values))
    return kernels, found


@pytest.mark.parametrize(("cvs", "least"), [(LINE, 0.02), (TORUS, 0.02), (MIXED, 0.06)], ids=["line", "torus", "mixed"])
def test_the_table_agrees_with_the_sum_over_kernels(cvs: CollectiveVariables, least: float) -> None:
    kernels, found = table(cvs, least=least)
    domain = np.array(cvs.upper) - np.array(cvs.lower)
    s = np.array(cvs.lower) + domain * np.random.default_rng(1).random((500, len(cvs)))
    exact, value = kernels.bias(s), found.energy(torch.from_numpy(s)).numpy()
    assert np.ptp(exact) > 1.0
    assert np.sqrt(np.mean((value - exact) ** 2)) < 0.02


@pytest.mark.parametrize(("cvs", "least"), [(LINE, 0.02), (TORUS, 0.02), (MIXED, 0.06)], ids=["line", "torus", "mixed"])
def test_gradients_are_finite_differences(cvs: CollectiveVariables, least: float) -> None:
    _, found = table(cvs, least=least)
    domain = torch.tensor(cvs.upper).double() - torch.tensor(cvs.lower).double()
    random = torch.Generator().manual_seed(2)
    s = torch.tensor(cvs.lower).double() + domain * torch.rand(200, len(cvs), generator=random, dtype=torch.float64)
    value, gradient = found.energy_and_gradient(s)
    torch.testing.assert_close(value, found.energy(s))
    for axis in range(len(cvs)):
        step = torch.zeros(len(cvs), dtype=torch.float64)
        step[axis] = 1e-6
        slope = (found.energy(s + step) - found.energy(s - step)) / 2e-6
        torch.testing.assert_close(gradient[:, axis], slope, rtol=1e-5, atol=1e-5)


def test_the_table_is_periodic_and_constant_beyond_other_ends() -> None:
    _, found = table(MIXED, least=0.06)
    s = torch.tensor(
        [[PI - 1e-9, 0.3, 0.1], [-PI + 1e-9, 0.3, 0.1], [0.2, 2.0, 0.1], [0.2, 2.7, 0.1], [0.2, -1.0, 0.1]]
    )
    value, gradient = found.energy_and_gradient(s.double())
    assert value[0] == pytest.approx(float(value[1]), abs=1e-6) and value[2] == value[3]
    assert gradient[3:, 1].tolist() == [0.0, 0.0] and gradient[3, 0] != 0
    float32, slopes = found.energy_and_gradient(s)
    torch.testing.assert_close(float32.double(), value, atol=1e-3, rtol=0)
    assert slopes.dtype == torch.float32
    broken = found.energy(torch.tensor([[math.nan, 0.3, 0.1], [math.inf, 0.3, 0.1]], dtype=torch.float64))
    assert broken.isnan().all()


def test_a_spline_reproduces_a_smooth_function() -> None:
    """cos on a periodic CV and a parabola mirrored on another, far between the nodes."""
    found = BiasTable(TORUS, [40, 40])
    nodes = -PI + 2 * PI / 40 * np.arange(40)
    found.set(np.cos(nodes)[:, None] + np.sin(2 * nodes)[None])
    s = torch.linspace(-4, 4, 101, dtype=torch.float64)[:, None].repeat(1, 2)
    value, gradient = found.energy_and_gradient(s)
    torch.testing.assert_close(value, s[:, 0].cos() + (2 * s[:, 1]).sin(), atol=2e-4, rtol=0)
    torch.testing.assert_close(gradient[:, 0], -s[:, 0].sin(), atol=2e-3, rtol=0)
