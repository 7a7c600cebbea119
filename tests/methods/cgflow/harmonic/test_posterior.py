"""Maps and states from a model over three CVs, against sums over a fine grid."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import Estimate, Map, States
from cgbench.contracts.pmf import PMF
from cgbench.scoring.divergences import forward_kld
from cgbench_methods.cgflow.harmonic.fit.posterior import estimate_of, expected_kld, model_grid
from cgbench_methods.cgflow.harmonic.fit.samples import WeightedSamples
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate

CVS = CollectiveVariables(("phi", "psi", "chi"), (-math.pi,) * 3, (math.pi,) * 3, (True,) * 3, bins=(40, 36, 32))
STATES = States(("left", "right"), lambda s: (s[:, 2] > 0).astype(np.int64))


def truth(s: torch.Tensor) -> torch.Tensor:
    phi, psi, chi = s.unbind(1)
    return torch.cos(phi - 0.3) + 1.5 * torch.cos(psi - phi) + 2 * torch.cos(3 * chi) + torch.sin(chi - psi)


@pytest.fixture(scope="module")
def problem() -> Any:
    maps = tuple(Map(axes, CVS.subset(axes)) for axes in ((0, 1), (2, 0)))
    return SimpleNamespace(cvs=CVS, maps=maps, states=STATES)


@pytest.fixture(scope="module")
def model() -> FourierSurrogate:
    generator = torch.Generator().manual_seed(1)
    s = math.pi * (2 * torch.rand(2000, 3, generator=generator, dtype=torch.float64) - 1)
    surrogate = FourierSurrogate(model_grid(CVS), 6, length_scale=0.7, amplitude=3.0)
    noise = torch.full((2000,), 0.2, dtype=torch.float64)
    surrogate.fit_values(s, truth(s) + 0.2 * torch.randn(2000, generator=generator, dtype=torch.float64), noise)
    return surrogate


def test_three_cvs_have_a_coarse_grid_and_few_modes(model) -> None:
    assert model_grid(CVS).bins == (30, 30, 30) and model_grid(CVS.subset((0, 1))).bins == (40, 36)
    assert len(model.basis) == 1 + 3 * 12 + 3 * 144 + 8 * 20 < 13**3  # full pairs, triples up to total order 6


def test_series_on_a_product_grid(model) -> None:
    axes = [torch.linspace(-3, 3, n, dtype=torch.float64) for n in (4, 3, 5)]
    expected = model.mean(torch.cartesian_prod(*axes)).reshape(4, 3, 5)
    found = model.basis.on_product_grid(axes, model.coefficients)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_maps_and_states_are_marginals(model, problem) -> None:
    estimate = estimate_of(model, WeightedSamples(model.cvs), problem)
    assert isinstance(estimate, Estimate) and estimate.populations is not None
    exact = torch.softmax(-truth(torch.from_numpy(CVS.grid())), 0).reshape(CVS.bins).numpy()
    expected = exact.sum(2), exact.sum(1).T
    klds = [forward_kld(p, pmf.probability) for p, pmf in zip(expected, estimate.pmfs, strict=True)]
    assert max(klds) < 5e-3
    assert 0.3 < np.mean(klds) / expected_kld(model, WeightedSamples(model.cvs), problem) < 3.0
    assert estimate.populations["right"] == pytest.approx(exact[:, :, 16:].sum(), abs=0.01)
    for p, pmf in zip(expected, estimate.pmfs, strict=True):
        error = -np.log(pmf.probability / p)
        inside = p > p.max() * math.exp(-4)
        error = error[inside] - error[inside].mean()
        assert pmf.free_energy_std is not None
        assert 0.3 < float(np.mean((error / pmf.free_energy_std[inside]) ** 2)) < 2.0


@pytest.mark.parametrize("amplitude", [0.1, 3.0])
def test_stated_errors_expect_the_divergence_under_any_prior(amplitude: float) -> None:
    """With too narrow a prior the posterior alone expects less than a tenth of the forward KLD."""
    cvs = CVS.subset((0, 1))
    grid = torch.from_numpy(cvs.grid())
    exact = truth(torch.cat([grid, 0.0 * grid[:, :1]], dim=1))
    generator = torch.Generator().manual_seed(2)
    chosen = torch.randperm(len(grid), generator=generator)[:400]
    values = exact[chosen] + 0.3 * torch.randn(400, generator=generator, dtype=torch.float64)
    model = FourierSurrogate(cvs, 6, length_scale=1.0, amplitude=amplitude)
    model.fit_values(grid[chosen], values, torch.full((400,), 0.3, dtype=torch.float64))
    problem: Any = SimpleNamespace(cvs=cvs, maps=(Map((0, 1), cvs),), states=None)
    estimate = estimate_of(model, WeightedSamples(model.cvs), problem)
    assert isinstance(estimate, PMF) and estimate.free_energy_std is not None
    stated = 0.5 * float((estimate.probability * estimate.free_energy_std**2).sum())
    kld = forward_kld(torch.softmax(-exact, 0).numpy().reshape(cvs.bins), estimate.probability)
    assert 0.3 < kld / stated < 3.0
    mean, std = model.on_grid()
    of_posterior = 0.5 * float((torch.softmax(-mean, 0) * std**2).sum())
    assert expected_kld(model, WeightedSamples(model.cvs), problem) == pytest.approx(max(stated, of_posterior), rel=0.1)
    assert (kld / of_posterior > 10.0) is (amplitude < 1.0)


def test_stated_errors_are_those_of_the_normalised_pmf() -> None:
    """Against draws of the posterior: what all populated places have in common changes no probability."""
    cvs = CVS.subset((0, 1))
    grid = torch.from_numpy(cvs.grid())
    values = 10.0 * (1.0 - torch.cos(grid).sum(1) / 2)  # populated around the origin
    near = values < 3.0
    model = FourierSurrogate(cvs, 3, length_scale=1.0, amplitude=2.0)
    model.fit_values(grid[near], values[near], torch.full((int(near.sum()),), 1.0, dtype=torch.float64))
    generator = torch.Generator().manual_seed(3)
    draws = torch.randn(2000, len(model.basis), generator=generator, dtype=torch.float64) @ model._inverse_factor.T
    errors = model.basis(grid) @ draws.T  # the constant is among them
    p = torch.softmax(-model.on_grid()[0], 0)
    normalised = (errors - p @ errors).std(1)
    populated = p > 1e-3 * p.max()
    stated = model.stated_error_on_grid()[populated]
    torch.testing.assert_close(stated, normalised[populated], rtol=0.1, atol=0.0)
    common = (p @ errors).std()
    assert float(common) > 0.2 * float((p @ errors.var(1)).sqrt())


def test_errors_from_large_weights_are_part_of_all_errors(model, problem) -> None:
    samples = WeightedSamples(model.cvs)
    before, expected = estimate_of(model, samples, problem), expected_kld(model, samples, problem)
    samples.tail_error = torch.full_like(samples.tail_error, 0.3)
    after = estimate_of(model, samples, problem)
    assert isinstance(before, Estimate) and isinstance(after, Estimate)
    for old, new in zip(before.pmfs, after.pmfs, strict=True):
        np.testing.assert_allclose(new.free_energy_std, np.hypot(old.free_energy_std, 0.3))
        np.testing.assert_array_equal(new.probability, old.probability)
    assert expected_kld(model, samples, problem) == pytest.approx(expected + 0.5 * 0.3**2)
