"""The model of the PMF: fits to values and to weights, and their uncertainty."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate

TORUS = CollectiveVariables(("phi", "psi"), (-math.pi,) * 2, (math.pi,) * 2, (True, True), bins=(20, 20))


def truth(s: torch.Tensor) -> torch.Tensor:
    return 2.0 * torch.cos(s[:, 0]) - 1.5 * torch.sin(s[:, 0] - 2 * s[:, 1]) + torch.cos(s[:, 1])


def uniform(count: int, generator: torch.Generator) -> torch.Tensor:
    return math.pi * (2 * torch.rand(count, 2, generator=generator, dtype=torch.float64) - 1)


def test_fit_to_values(generator) -> None:
    model = FourierSurrogate(TORUS, 4, length_scale=1.0, amplitude=3.0)
    s = uniform(400, generator)
    noise = torch.full((400,), 0.1, dtype=torch.float64)
    model.fit_values(s, truth(s) + 0.1 * torch.randn(400, generator=generator, dtype=torch.float64), noise)
    test = uniform(500, generator)
    mean, std = model.mean_and_std(test)
    error = (mean - truth(test)) / std
    assert float(error.square().mean()) == pytest.approx(1.0, abs=0.6)  # errors are as large as it says
    assert float(std.max()) < 0.2


def test_slopes_replace_most_values(generator) -> None:
    """30 values do not determine the function; with their slopes, some of them unknown, they do."""
    nodes = torch.from_numpy(TORUS.grid())
    s = uniform(30, generator)
    exact = s.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(truth(exact).sum(), exact)
    slopes[::10, 0] = torch.nan
    noise = torch.full((30,), 0.05, dtype=torch.float64)
    errors = {}
    for known in (False, True):
        model = FourierSurrogate(TORUS, 4, length_scale=1.0, amplitude=3.0)
        extra = (slopes, torch.full((30, 1), 0.05, dtype=torch.float64)) if known else ()
        model.fit_values(s, truth(s), noise, *extra)
        mean, std = model.mean_and_std(nodes)
        error = mean - truth(nodes)
        errors[known] = float(error.square().mean().sqrt())
        assert float(((error - error.mean()) / std).square().mean()) < 3.0
    assert errors[True] < 0.2 * errors[False]


def test_uncertainty_is_large_away_from_the_labels(generator) -> None:
    model = FourierSurrogate(TORUS, 6, length_scale=0.7, amplitude=5.0)
    s = 0.5 * uniform(200, generator)  # the middle quarter
    model.fit_values(s, truth(s), torch.full((200,), 0.1, dtype=torch.float64))
    _, near = model.mean_and_std(torch.zeros(1, 2, dtype=torch.float64))
    _, far = model.mean_and_std(torch.full((1, 2), 3.1, dtype=torch.float64))
    assert float(near) < 0.1 and float(far) > 2.0


@pytest.mark.parametrize("spread", [0.3, 1.5])
def test_fit_to_weights_is_unbiased(spread, generator) -> None:
    """Log-normal weights of unit mean: fitting their mean, not the mean of their logarithm."""
    count = 40_000
    s = uniform(count, generator)
    noise = spread * torch.randn(count, generator=generator, dtype=torch.float64) - 0.5 * spread**2
    model = FourierSurrogate(TORUS, 4, length_scale=1.0, amplitude=3.0)
    variance = math.expm1(spread**2)
    model.fit_weights(s, -truth(s) + 7.0 + noise, torch.full((count,), 1 / variance, dtype=torch.float64))
    nodes = torch.from_numpy(TORUS.grid())
    mean, std = model.mean_and_std(nodes)
    error = mean - truth(nodes)
    error = error - error.mean()
    assert float(error.square().mean().sqrt()) < 3 * float(std.mean())
    assert float(error.square().mean().sqrt()) < 0.12


def test_evidence_prefers_the_right_length_scale(generator) -> None:
    s = uniform(300, generator)
    values = truth(s) + 0.05 * torch.randn(300, generator=generator, dtype=torch.float64)
    evidence = {}
    for length_scale in (0.1, 0.8, 4.0):
        model = FourierSurrogate(TORUS, 8, length_scale, amplitude=3.0)
        evidence[length_scale] = model.fit_values(s, values, torch.full((300,), 0.05, dtype=torch.float64))
    assert max(evidence, key=evidence.__getitem__) == 0.8


def test_adopting_a_posterior(generator) -> None:
    first = FourierSurrogate(TORUS, 4, 1.0, 3.0)
    s = uniform(100, generator)
    first.fit_values(s, truth(s), torch.full((100,), 0.1, dtype=torch.float64))
    second = FourierSurrogate(TORUS, 4, 1.0, 3.0)
    second.adopt_posterior(first, 40.0)
    np.testing.assert_allclose(second.mean(s).numpy(), first.mean(s).numpy() + 40.0, rtol=0, atol=1e-11)
    third = FourierSurrogate(TORUS, 4, 0.5, 1.0)
    third.load_state_dict(second.state_dict())
    for a, b in zip(third.mean_and_std(s), second.mean_and_std(s), strict=True):
        torch.testing.assert_close(a, b)


def test_prior_is_chosen_by_evidence(generator) -> None:
    s = uniform(20_000, generator)
    noise = 0.3 * torch.randn(20_000, generator=generator, dtype=torch.float64) - 0.045
    model = FourierSurrogate(TORUS, 8, length_scale=0.5, amplitude=1.0)
    variance = torch.full((20_000,), 1 / math.expm1(0.09), dtype=torch.float64)
    model.fit_weights(s, -truth(s) + noise, variance)
    model.choose_prior((0.1, 0.8, 4.0), (0.01, 2.0, 500.0))
    assert (model.length_scale, model.amplitude) == (0.8, 2.0)


def test_table_is_the_model_at_the_resolution_of_the_bins(generator) -> None:
    model = FourierSurrogate(TORUS, 4, length_scale=1.0, amplitude=3.0)
    s = uniform(100, generator)
    model.fit_values(s, truth(s), torch.full((100,), 0.1, dtype=torch.float64))
    nodes = torch.from_numpy(TORUS.grid())
    near = nodes + 0.4 * (2 * math.pi / 20) * (2 * torch.rand(nodes.shape, generator=generator) - 1)
    for found, expected in zip(model.table()(near), model.mean_and_std(nodes), strict=True):
        torch.testing.assert_close(found, expected)


CUBE = CollectiveVariables(("a", "b", "c"), (-math.pi,) * 3, (math.pi,) * 3, (True,) * 3, bins=(7, 6, 5))


def fitted(generator, cells: bool) -> FourierSurrogate:
    """Fit to weights and slopes at some bins of a grid over three CVs, with sums over the grid or over points."""
    chosen = torch.arange(0, 7 * 6 * 5, 2)
    s = torch.from_numpy(CUBE.grid())[chosen]
    log_weights = -torch.cos(s[:, 0] - s[:, 1]) + 0.3 * torch.randn(len(s), generator=generator, dtype=torch.float64)
    precision = torch.rand(len(s), 4, generator=generator, dtype=torch.float64) + 0.1
    slopes = -torch.sin(s[:, :1] - s[:, 1:2]) * torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
    model = FourierSurrogate(CUBE, 2, 0.8, 2.0)
    model.fit_weights(s, log_weights, precision[:, 0], slopes, precision[:, 1:], cells=chosen if cells else None)
    return model


def test_fit_on_a_grid_is_the_fit_to_its_bins(generator) -> None:
    state = generator.get_state()
    expected = fitted(generator, cells=False)
    generator.set_state(state)
    found = fitted(generator, cells=True)
    mean, std = expected.mean_and_std(torch.from_numpy(CUBE.grid()))
    assert std.max() > 1.3 * std.min()
    found_mean, found_std = found.on_grid()
    assert float((found_mean - mean).abs().max()) < 0.1 * float(std.min())  # Newton's method ends a little earlier
    torch.testing.assert_close(found_std, std, rtol=1e-6, atol=0)


def test_modes_averaged_over_other_cvs(generator) -> None:
    model = fitted(generator, cells=True)
    p = torch.softmax(-model.on_grid()[0], 0).reshape(CUBE.bins)
    modes = model.basis(torch.from_numpy(CUBE.grid())).reshape(*CUBE.bins, -1)
    mean_modes = torch.einsum("abc,abcm->cam", p, modes) / p.sum(1).T[..., None]
    found = model.products.conditional_mean((2, 0), p.reshape(-1))
    torch.testing.assert_close(found, mean_modes.reshape(35, -1))


def test_errors_where_the_prior_is_too_smooth(generator) -> None:
    """Noisy values of a known function: under a flat prior the posterior alone claims too little, under a wide one not.

    With a wide prior the shift is what the prior expects, and hardly anything is added.
    """
    s = uniform(4000, generator)
    values = truth(s) + 0.5 * torch.randn(4000, generator=generator, dtype=torch.float64)
    grid = uniform(500, generator)
    added, covered = {}, {}
    for amplitude in (0.2, 4.0):
        model = FourierSurrogate(TORUS, order=5, length_scale=1.0, amplitude=amplitude)
        model.fit_values(s, values, torch.full((4000,), 0.5, dtype=torch.float64))
        mean, std = model.mean_and_std(grid)
        excess = model.excess_of_prior_shift(model.basis(grid))
        error = (mean - truth(grid)).abs()
        covered[amplitude] = [float((error < 1.96 * each).double().mean()) for each in (std, (std**2 + excess).sqrt())]
        added[amplitude] = float(excess.mean() / (std**2).mean())
    assert covered[0.2][0] < 0.5 and covered[0.2][1] > 0.9
    assert covered[4.0][0] > 0.9 and added[4.0] < 0.1 < added[0.2]
