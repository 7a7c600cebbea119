"""Walks on the model of the PMF, choice and broadening of points, and the ensemble."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.cgflow.common.exploration import broaden, farthest_points, walk
from cgbench_methods.cgflow.published.ensemble import NetworkEnsemble

TORUS = CollectiveVariables(("phi", "psi"), (-math.pi,) * 2, (math.pi,) * 2, (True, True))
LINE = CollectiveVariables(("s",), (-1.0,), (2.0,), (False,), unit="")


def test_walk_samples_the_models_boltzmann_distribution(generator) -> None:
    """Where the model is certain, the walkers equilibrate on its mean."""

    def model(s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return 1.5 * torch.cos(s[:, 0]), torch.zeros(len(s), dtype=s.dtype)

    start = torch.zeros(4000, 2, dtype=torch.float64)
    outcome = walk(TORUS, model, start, generator, step=1.0, threshold=1.0, max_steps=200)
    assert not bool(outcome.stopped.any()) and outcome.steps == 200
    grid = np.linspace(-math.pi, math.pi, 20001)
    density = np.exp(-1.5 * np.cos(grid))
    cumulative = np.cumsum(density) / density.sum()
    found = outcome.positions[:, 0].numpy()
    assert stats.kstest(found, lambda v: np.interp(v, grid, cumulative)).pvalue > 1e-3
    assert stats.kstest(outcome.positions[:, 1].numpy(), stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3


def test_walkers_stop_where_the_model_is_uncertain(generator) -> None:
    def model(s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(s), dtype=s.dtype), (s[:, 0] > 1.0).to(s.dtype)

    start = torch.zeros(300, 1, dtype=torch.float64)
    outcome = walk(LINE, model, start, generator, step=0.3, threshold=0.5, max_steps=5000, wanted=100)
    assert int(outcome.stopped.sum()) >= 100 and outcome.steps < 5000
    assert bool((outcome.positions[outcome.stopped] > 1.0).all())
    assert bool((outcome.positions[~outcome.stopped] <= 1.0).all())
    assert bool(((outcome.positions >= -1.0) & (outcome.positions <= 2.0)).all())
    late = walk(LINE, model, start + 1.5, generator, step=0.01, threshold=0.5, max_steps=40, min_steps=40)
    assert late.steps == 40 and bool(late.stopped.all())


def test_difference_takes_the_short_way_round() -> None:
    a, b = torch.tensor([[3.1, 0.0]]), torch.tensor([[-3.1, 1.0]])
    torch.testing.assert_close(TORUS.difference(a, b), torch.tensor([[6.2 - 2 * math.pi, -1.0]]))
    assert float(TORUS.wrap(torch.tensor([[math.pi, 0.0]]))[0, 0]) == pytest.approx(-math.pi)


def test_farthest_points() -> None:
    candidates = torch.tensor([[0.0], [0.1], [1.9], [1.0], [0.05]])
    assert farthest_points(LINE, candidates, 3).tolist() == [0, 2, 3]
    known = torch.tensor([[0.0]])
    assert farthest_points(LINE, candidates, 5, known, min_distance=0.5).tolist() == [2, 3]
    assert farthest_points(LINE, candidates[:0], 3).tolist() == []
    around = torch.tensor([[3.1, 0.0], [-3.1, 0.0], [0.0, 0.0]])
    assert farthest_points(TORUS, around, 2).tolist() == [0, 2]  # the first two are neighbours


def test_broaden_fills_the_ball_evenly(generator) -> None:
    points = broaden(TORUS, torch.tensor([[3.0, 0.0]], dtype=torch.float64), 0.6, 20_000, generator)
    distance = TORUS.difference(points, torch.tensor([[3.0, 0.0]], dtype=torch.float64)).norm(dim=1)
    assert float(distance.max()) <= 0.6
    assert stats.kstest((distance / 0.6).numpy() ** 2, "uniform").pvalue > 1e-3  # areas are equally likely
    assert bool((points < math.pi).all())
    line = broaden(LINE, torch.tensor([[1.9]], dtype=torch.float64), 0.5, 5000, generator)
    assert float(line.max()) <= 2.0 and float(line.min()) >= 1.4


def test_ensemble_learns_and_is_uncertain_away_from_its_labels(generator) -> None:
    ensemble = NetworkEnsemble(10, 1, (64, 64), generator)
    x = 2 * torch.rand(200, 1, generator=generator, dtype=torch.float64) - 1
    ensemble.fit(x, torch.sin(3 * x[:, 0]), share=0.9, epochs=150, batch=20, learning_rate=3e-3)
    mean, near = ensemble.mean_and_std(x)
    assert float((mean - torch.sin(3 * x[:, 0])).abs().max()) < 0.15
    _, far = ensemble.mean_and_std(torch.tensor([[4.0]], dtype=torch.float64))
    assert float(far) > 10 * float(near.mean())
    other = NetworkEnsemble(10, 1, (64, 64), generator)
    other.load_state_dict(ensemble.state_dict())
    assert torch.equal(other.mean_and_std(x)[0], mean)
