"""Misfit: a PMF that the model cannot follow is found, noise is not taken for one, and the verdict says so."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem
from cgbench.counting.ledger import Ledger
from cgbench.counting.streams import Streams
from cgbench.scoring.divergences import forward_kld
from cgbench_methods.cgflow.harmonic.config import HarmonicConfig
from cgbench_methods.cgflow.harmonic.fit.misfit import misfit
from cgbench_methods.cgflow.harmonic.recipe import HarmonicRecipe
from tests.methods.cgflow.harmonic.plain import MadeUp

LINE = CollectiveVariables(("a",), (-math.pi,), (math.pi,), (True,), (100,))
SHORT = {"training": {"rounds": 3}, "labels": {"max_rounds": 1}, "flow": {"num_couplings": 0}}
PLANE = CollectiveVariables(("a", "b"), (-math.pi, 0.0), (math.pi, 4.0), (True, False), (60, 40))


def found_of(cvs: CollectiveVariables, true: np.ndarray, model: np.ndarray, samples: int, seed: int) -> Any:
    """Return the misfit of weights of a known relative variance, at places drawn uniformly."""
    random = np.random.default_rng(seed)
    cells = random.integers(true.size, size=samples)
    ratio = np.exp((model - true).ravel()[cells]) * random.lognormal(-0.125, 0.5, samples)
    variance = np.exp(0.25) - 1
    sums = (np.bincount(cells, values, true.size).reshape(cvs.bins) for values in (np.ones(samples), ratio - 1))
    p = np.exp(-model) / np.exp(-model).sum()
    return misfit(cvs, 8, p, *(values / variance for values in sums))


@pytest.mark.parametrize("cvs", [LINE, PLANE])
def test_noise_is_not_taken_for_misfit(cvs: CollectiveVariables) -> None:
    s = cvs.grid()
    model = (2 * np.cos(s).sum(1)).reshape(cvs.bins)
    z = [(one := found_of(cvs, model, model, 20_000, seed)).kld / one.error for seed in range(100)]
    assert abs(np.mean(z)) < 0.4 and 0.7 < np.std(z) < 1.3 and max(z) < 5


@pytest.mark.parametrize("cvs", [LINE, PLANE])
def test_a_narrow_dip_is_found_with_its_divergence(cvs: CollectiveVariables) -> None:
    s = cvs.grid()
    model = (2 * np.cos(s[:, 0])).reshape(cvs.bins)
    true = model - 0.8 * np.exp(-((s[:, 0] / 0.3) ** 2)).reshape(cvs.bins)
    found = found_of(cvs, true, model, 50_000, 0)
    p, q = (np.exp(-values) / np.exp(-values).sum() for values in (true, model))
    assert found.significant and found.kld == pytest.approx(forward_kld(p, q), rel=0.6)


class OneAngle(MadeUp):
    """One CV, with a given PMF, and a harmonic coordinate."""

    name = "one angle"
    cvs = LINE
    names, angles, start = ("w",), (False,), (2.0, 0.0)

    def pmf(self, s: torch.Tensor) -> torch.Tensor:
        return 2 * (1 + torch.cos(s[:, 0] - 0.5))

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        return self.pmf(x) + 0.5 * x[:, 1] ** 2


class NarrowDip(OneAngle):
    """A dip of a quarter of a radian, where the shortest wave of the model is 0.8."""

    name = "narrow dip"

    def pmf(self, s: torch.Tensor) -> torch.Tensor:
        return super().pmf(s) - 3 * torch.exp(-((s[:, 0] / 0.25) ** 2))


class ShortDistance(OneAngle):
    """A distance in nm with two basins."""

    name = "short distance"
    cvs = CollectiveVariables(("d",), (0.2,), (1.0,), (False,), (80,), "nm")
    start = (0.4, 0.0)

    def pmf(self, s: torch.Tensor) -> torch.Tensor:
        return 5 * (((s[:, 0] - 0.6) / 0.2) ** 2 - 1) ** 2 + 5 * (s[:, 0] - 0.4)


@pytest.mark.parametrize(("cls", "right"), [(OneAngle, True), (NarrowDip, False), (ShortDistance, True)])
def test_the_verdict_says_so(cls: type[OneAngle], right: bool) -> None:
    config = HarmonicConfig.model_validate(SHORT)
    system = cls()
    recipe = HarmonicRecipe(Problem(system, Ledger()), config, Streams(0))
    *_, last = recipe.estimates()
    exact = PMF.from_function(system.cvs, lambda s: system.pmf(torch.from_numpy(s)).numpy())
    kld = forward_kld(exact.probability, last.probability)
    found = recipe.diagnostics()
    assert (kld < 1e-3) is right is found["reliable"]
    assert any("less smooth" in warning for warning in found["warnings"]) is not right


class InAngstrom(ShortDistance):
    """The same, in another unit."""

    cvs = CollectiveVariables(("d",), (2.0,), (10.0,), (False,), (80,), "angstrom")
    start = (4.0, 0.0)

    def pmf(self, s: torch.Tensor) -> torch.Tensor:
        return super().pmf(s / 10)


def test_the_unit_of_a_cv_does_not_matter() -> None:
    found = []
    for cls in (ShortDistance, InAngstrom):
        recipe = HarmonicRecipe(Problem(cls(), Ledger()), HarmonicConfig.model_validate(SHORT), Streams(0))
        *_, last = recipe.estimates()
        found.append((last.probability, len(recipe.minima.s)))
    (p, points), (q, same) = found
    assert points == same > 3
    np.testing.assert_allclose(p, q, rtol=1e-6, atol=1e-12)
