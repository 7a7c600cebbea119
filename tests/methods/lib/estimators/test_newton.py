"""Newton's method against scipy's optimisers, and where it damps and ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from cgbench_methods.lib.estimators.newton import minimise


def poisson_regression(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    features = random.normal(size=(200, 6))
    return features, random.poisson(np.exp(features @ random.normal(size=6))).astype(float)


def test_poisson_regression_against_scipy() -> None:
    features, counts = poisson_regression(0)

    def objective(c: np.ndarray) -> tuple[float, np.ndarray]:
        mean = np.exp(features @ c)
        return float((mean - counts * (features @ c)).sum() + 0.5 * c @ c), mean

    def step(c: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, float]:
        gradient = features.T @ (mean - counts) + c
        found = np.linalg.solve(features.T @ (mean[:, None] * features) + np.eye(6), gradient)
        return found, float(gradient @ found)

    start = np.full(6, 2.0)
    found, mean = minimise(objective, step, start, iterations=50, shortest=1e-6, armijo=1e-4, least_decrement=1e-12)
    expected = minimize(lambda c: objective(c)[0], start, method="BFGS", options={"gtol": 1e-7})
    np.testing.assert_allclose(found, expected.x, atol=1e-6)
    np.testing.assert_array_equal(mean, np.exp(features @ found))  # of the last point, not of a trial


def hyperbola(c: torch.Tensor) -> tuple[float, torch.Tensor]:
    """``sum sqrt(1 + c^2)``: a full Newton step goes from c to ``-c^3``, further away if ``|c| > 1``."""
    root = (1 + c**2).sqrt()
    return float(root.sum()), root


def hyperbola_step(c: torch.Tensor, root: torch.Tensor) -> tuple[torch.Tensor, float]:
    step = c * root**2
    return step, float((step * c / root).sum())


@pytest.mark.parametrize("growth", [2.0, math.inf])
def test_steps_that_are_too_long_are_halved(growth: float) -> None:
    start = torch.tensor([30.0, -7.0], dtype=torch.float64)
    options = {"iterations": 200, "shortest": 1e-9, "growth": growth, "least_gain": 1e-14}
    found, _ = minimise(hyperbola, hyperbola_step, start, armijo=1e-4, **options)
    assert float(found.abs().max()) < 1e-6


def test_the_step_grows_again_by_the_factor_given() -> None:
    """The first step has to be halved to 1/8; the next is tried at twice that, not in full."""
    lengths = []

    def objective(c: torch.Tensor) -> tuple[float, None]:
        lengths.append(float(start - c) if len(lengths) < 5 else float(halved - c))
        return float(c) if c >= start - 0.13 or len(lengths) > 5 else 100.0, None

    start, halved = torch.tensor(10.0), torch.tensor(10.0 - 0.125)
    minimise(objective, lambda c, _: (torch.tensor(1.0), 1.0), start, iterations=2, shortest=1e-3, growth=2.0)
    assert lengths == [0.0, 1.0, 0.5, 0.25, 0.125, 0.25]


def test_a_search_without_a_better_point_keeps_the_start() -> None:
    calls = []

    def objective(c: torch.Tensor) -> tuple[float, str]:
        calls.append(float(c))
        return float(c**2), f"at {float(c)}"

    start = torch.tensor(1.0, dtype=torch.float64)
    uphill = torch.tensor(-1.0, dtype=torch.float64)
    found, intermediate = minimise(objective, lambda c, _: (uphill, 1.0), start, iterations=9, shortest=1e-3)
    assert found is start and intermediate == "at 1.0"
    assert len(calls) == 1 + 10 and calls[-1] - 1.0 == pytest.approx(2.0**-9)  # down to the last one above 1e-3


def test_a_point_where_the_objective_is_not_a_number_is_never_taken() -> None:
    def objective(c: torch.Tensor) -> tuple[float, None]:
        return float(c**2) if c < 3 else math.nan, None

    start = torch.tensor(2.0, dtype=torch.float64)
    found, _ = minimise(
        objective, lambda c, _: (torch.tensor(-4.0).double(), 1.0), start, iterations=3, shortest=1e-3, armijo=-math.inf
    )
    assert float(found) < 3


@pytest.mark.parametrize(("rule", "steps"), [({"least_gain": 0.1}, 3), ({"least_decrement": 0.3}, 3), ({}, 8)])
def test_the_search_ends_by_its_rules(rule: dict[str, float], steps: int) -> None:
    """Half of a full step at a time on ``c^2``: gains 3/4, 3/16, 3/64, decrements 2, 1/2, 1/8 (start at 1)."""
    made = []

    def step(c: torch.Tensor, _: None) -> tuple[torch.Tensor, float]:
        made.append(float(c))
        return 0.5 * c, float(2 * c**2)

    minimise(lambda c: (float(c**2), None), step, torch.tensor(1.0).double(), iterations=8, shortest=1e-3, **rule)
    assert len(made) == steps
