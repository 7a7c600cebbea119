"""Three CVs: reference points behind a barrier, and the recipe against quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import Estimate
from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem
from cgbench.counting.ledger import Ledger
from cgbench.counting.streams import Streams
from cgbench.scoring.divergences import forward_kld
from cgbench_methods.cgflow.common.stages import Stages
from cgbench_methods.cgflow.harmonic.atlas.placement import Placement
from cgbench_methods.cgflow.harmonic.atlas.search import MinimaSearch
from cgbench_methods.cgflow.harmonic.config import HarmonicConfig
from cgbench_methods.cgflow.harmonic.recipe import HarmonicRecipe
from cgbench_methods.cgflow.harmonic.uncertain import uncertain_points
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate
from cgbench_methods.lib.flows.target import ConditionalTarget
from tests.methods.cgflow.harmonic.plain import MadeUp

CVS = CollectiveVariables(("a", "b", "c"), (-math.pi,) * 3, (math.pi,) * 3, (True,) * 3, bins=(24, 20, 16))
CONFIG = HarmonicConfig.model_validate(
    {
        "atlas": {"max_points": 30, "min_distance": 0.7, "walkers": 100, "walk_steps": 1000},
        "flow": {"num_couplings": 2, "hidden_features": 16},
        "training": {"rounds": 2, "steps_per_round": 3, "learning_rate": 3e-3},
        "surrogate": {"order": 4, "length_scales": [0.5, 0.7, 1.0]},
        "labels": {"batch": 1000, "max_rounds": 1},
    }
)


def free_energy(s: torch.Tensor) -> torch.Tensor:
    """PMF with a second basin at a = 180 degrees, behind barriers of 20 kT, and a barrier of 40 kT along b."""
    a, b, c = s.unbind(1)
    wall = 20.0 * torch.cos(b - 2.0)
    return 10.0 * torch.sin(a) ** 2 - 0.5 * torch.cos(a) + 1.5 * torch.cos(c - b) + torch.cos(3 * c) + wall


class ThreeTorsions(MadeUp):
    """Three CVs with the PMF above, and two coordinates that are Gaussian with fixed widths at given CVs."""

    name, cvs, maps = "three_torsions", CVS, ((0, 1), (2, 1))
    names, angles, start = ("u", "v"), (False, False), (0.1, -1.0, 1.0, 0.0, 0.0)

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        a, b, _, u, v = x.unbind(1)
        return free_energy(x[:, :3]) + 0.5 * (u - torch.sin(a)) ** 2 + 2.0 * (v - torch.cos(b) - 0.5 * u) ** 2


def search() -> MinimaSearch:
    problem = Problem(ThreeTorsions(), Ledger())
    target = ConditionalTarget(problem, problem.coordinate_sets["default"])
    found = MinimaSearch(problem, CVS, target, CONFIG, Stages(CVS), Streams(0))
    assert list(found.grow())[-1] == len(found.points) <= 4 * CONFIG.atlas.max_points
    return found


def test_points_cover_all_that_is_below_the_ceiling() -> None:
    found = search()
    exact = free_energy(torch.from_numpy(CVS.grid()))
    exact = exact - exact.min()
    mean, std = found.model.on_grid()
    mean = mean - mean.min()
    assert found.placement.stage != "walkers"
    assert (std[exact < 15.0] <= CONFIG.atlas.threshold).all()
    low = exact < 6.0
    assert (mean - exact)[low].square().mean().sqrt() < 1.0


def test_frontier_grows_from_low_points_only() -> None:
    model = FourierSurrogate(CVS, 4, CONFIG.atlas.length_scale, CONFIG.atlas.amplitude)
    points = torch.tensor([[0.0, -1.0, 0.0], [2.5, -1.0, 0.0]], dtype=torch.float64)
    above = torch.tensor([0.0, 40.0], dtype=torch.float64)
    model.fit_values(points, above.clamp(max=25.0), torch.full((2,), 0.5, dtype=torch.float64))
    placed = Placement(CVS, model, CONFIG, Streams(0))
    placed.stage = "frontier"
    new = placed.choose(points, above)
    distance = CVS.difference(new[:, None], torch.cat([points, new])[None]).norm(dim=2)
    assert len(new) == 24 and placed.stage == "frontier"
    assert (distance[:, 0] < 1.4).all()  # of the low point; farther bins near the high one are left out
    assert (model.mean_and_std(new)[1] > CONFIG.atlas.threshold).all()
    assert (distance + 9 * (distance < 1e-9)).min() > CONFIG.atlas.min_distance


@pytest.fixture(scope="module")
def finished() -> tuple[HarmonicRecipe, PMF | Estimate]:
    recipe = HarmonicRecipe(Problem(ThreeTorsions(), Ledger()), CONFIG, Streams(1))
    *_, last = recipe.estimates()
    return recipe, last


def test_recipe_against_quadrature(finished: tuple[HarmonicRecipe, PMF | Estimate]) -> None:
    recipe, last = finished
    assert isinstance(last, Estimate)
    exact = torch.softmax(-free_energy(torch.from_numpy(CVS.grid())), 0).numpy().reshape(CVS.bins)
    for p, pmf in zip((exact.sum(2), exact.sum(0).T), last.pmfs, strict=True):
        assert forward_kld(p, pmf.probability) < 2e-3
    found = recipe.diagnostics()
    assert found["late"]["effective_sample_size"] > 0.8
    assert np.isfinite(last.pmfs[0].free_energy_std).all()


def test_samples_above_the_ceiling_do_not_count_for_the_verdict(
    finished: tuple[HarmonicRecipe, PMF | Estimate],
) -> None:
    recipe, _ = finished
    before = recipe.diagnostics()["late"]
    s, poor = CVS.wrap(torch.full((500, 3), 2.0, dtype=torch.float64)), torch.linspace(-60, 60, 500).double()
    for shifted, same in ((0.0, True), (3.3, False)):  # 40 kT high, and in the basin: at b = 2 and at b = -1
        added = s - torch.tensor([0.0, shifted, 0.0], dtype=torch.float64)
        state = recipe.samples.state_dict()
        recipe.samples.add(added, poor)
        after = recipe.diagnostics()["late"]
        assert (after["effective_sample_size"] > 0.9 * before["effective_sample_size"]) is same
        assert (after["largest_share"] < 0.1) is same
        recipe.samples.load_state_dict(state)


def test_walkers_that_stop_above_the_ceiling_do_not_count() -> None:
    """The model is uncertain everywhere, and 20 kT higher at a = 2 than at a = -2."""
    model = FourierSurrogate(CVS, 3, 0.7, 0.5)
    config = CONFIG.surrogate.model_copy(update={"threshold": 0.3})
    start = torch.tensor([[-2.0, -2.0, 0.0], [2.0, -2.0, 0.0]], dtype=torch.float64)
    model.prior_mean = model.coefficients = _coefficients(model, lambda s: 10.0 * torch.sin(s[:, 0]))
    for ceiling, expected in ((40.0, {-2.0, 2.0}), (12.0, {-2.0})):
        points, stopped = uncertain_points(model, start, config, ceiling, torch.Generator().manual_seed(0))
        assert {2.0 if a > 0 else -2.0 for a in points[:, 0].tolist()} == expected
        assert (stopped == config.walkers) is (len(expected) == 2) and len(points) <= stopped


def _coefficients(model: FourierSurrogate, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    s = torch.from_numpy(CVS.grid())
    found: torch.Tensor = torch.linalg.lstsq(model.basis(s), function(s)[:, None]).solution[:, 0]
    return found
