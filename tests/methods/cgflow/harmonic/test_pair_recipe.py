"""The recipe with more than three collective variables, against quadrature over five angles."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from cgbench.contracts.maps import Estimate
from cgbench.contracts.problem import Problem
from cgbench.counting.ledger import Ledger
from cgbench.counting.streams import Streams
from cgbench.errors import UserError
from cgbench.scoring.divergences import forward_kld
from cgbench_methods.cgflow.harmonic.config import HarmonicConfig, PairsConfig, more_for
from cgbench_methods.cgflow.harmonic.pairs.assisted import AssistedDynamics
from cgbench_methods.cgflow.harmonic.pairs.recipe import PairRecipe
from cgbench_methods.lib.lengths import units
from tests.methods.cgflow.harmonic.chain import BINS, CVS, FiveAngles, exact_maps, free_energy
from tests.methods.cgflow.harmonic.plain import PlainCoordinates

CONFIG = HarmonicConfig.model_validate(
    {
        "atlas": {"max_points": 20, "min_distance": 0.7},
        "flow": {"num_couplings": 2, "hidden_features": 16, "feature_order": 2},
        "training": {"rounds": 2, "steps_per_round": 2, "learning_rate": 3e-3},
        "labels": {"max_rounds": 3},
        "pairs": {
            **{"order": 4, "walkers": 500, "fit_orders": [1, 2, 3, 4], "marginal_draws": 5000},
            **{"starts": 20, "stride": 5, "proposals": 20, "step_size": 0.3},
        },
    }
)
SMALL = CONFIG.model_copy(
    update={
        "atlas": CONFIG.atlas.model_copy(update={"max_points": 6}),
        "training": CONFIG.training.model_copy(update={"steps_per_round": 1}),
        "pairs": CONFIG.pairs.model_copy(
            update={"walkers": 100, "marginal_draws": 500, "fit_orders": (1, 2), "proposals": 3}
        ),
    }
)


def recipe_of(seed: int, config: HarmonicConfig = CONFIG) -> PairRecipe:
    return PairRecipe(Problem(FiveAngles(), Ledger()), config, Streams(seed))


@pytest.fixture(scope="module")
def finished() -> tuple[PairRecipe, list[Any]]:
    recipe = recipe_of(1)
    return recipe, list(recipe.estimates())


def test_maps_and_states_against_quadrature(finished) -> None:
    recipe, estimates = finished
    assert len(estimates) == 1 + 2 + (1 + 3)
    last = estimates[-1]
    assert isinstance(last, Estimate) and last.populations is not None
    klds = []
    exact = exact_maps()
    for p, pmf in zip(exact, last.pmfs, strict=True):
        klds.append(forward_kld(p, pmf.probability))
        assert pmf.free_energy_std is not None
        error = -np.log(pmf.probability / p)
        inside = p > p.max() * np.exp(-5)
        error = error[inside] - error[inside].mean()
        assert 0.3 < np.mean((error / pmf.free_energy_std[inside]) ** 2) < 2.5
    assert max(klds) < 3e-3
    assert last.populations["c > 0"] == pytest.approx(exact[1][:, 12:].sum(), abs=0.02)


def test_terms_of_three_angles_do_not_bias_the_maps(finished) -> None:
    """The model is wrong by the terms of three angles; the maps are far better than it."""
    recipe, estimates = finished
    s = recipe.rounds.walkers
    error = recipe.model.mean(s) - free_energy(s)
    assert float(error.std()) > 0.3
    first, last = (forward_kld(exact_maps()[0], found.pmfs[0].probability) for found in (estimates[0], estimates[-1]))
    assert last < 0.3 * first


def test_verdict_and_numbers(finished) -> None:
    recipe, _ = finished
    found = recipe.diagnostics()
    assert found["reliable"] and found["warnings"] == []
    assert found["atlas_points"] <= 20 * more_for(5) * PairsConfig().more_points
    assert found["labels"] == 3 * 20 * 500  # positions of the walkers after the equilibration
    assert [entry["stage"] for entry in found["rounds"]] == ["train"] * 2 + ["label"] * 4
    last = found["rounds"][-1]
    assert last["effective_sample_size"] > 0.5 and last["accepted"] > 0.25
    assert found["moves_per_walker"] == last["moves_per_walker"] > 10
    assert found["walkers_without_a_move"] < 0.01
    assert recipe.extra_arrays()["atlas_points"].shape == (found["atlas_points"], 5)


class InDegrees(FiveAngles):
    """The same with CVs in degrees. Its configurations contain them, so its dynamics are different."""

    cvs = dataclasses.replace(CVS, lower=(-180.0,) * 5, upper=(180.0,) * 5, unit="deg")

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        return super().energy(torch.cat([x[:, :5].deg2rad(), x[:, 5:]], dim=1))


def test_the_unit_of_the_cvs_does_not_matter_before_dynamics() -> None:
    found = []
    for system in (FiveAngles(), InDegrees()):
        recipe = PairRecipe(Problem(system, Ledger()), SMALL, Streams(1))
        estimates = list(itertools.islice(recipe.estimates(), 3))
        found.append(
            (recipe.search.minima.s / units(system.cvs), [pmf.probability for one in estimates for pmf in one.pmfs])
        )
    (points, first), (same, second) = found
    torch.testing.assert_close(points, same, rtol=0, atol=1e-6)
    for p, q in zip(first, second, strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-4, atol=1e-10)


def walkers_of(recipe: PairRecipe, **changes: Any) -> AssistedDynamics:
    config = recipe.config.pairs.model_copy(update=changes)
    return AssistedDynamics(recipe.problem, recipe.coordinates, recipe.rounds, config, 50.0, Streams(7))


def test_walkers_outside_the_state_space_return_by_dynamics_alone(finished, monkeypatch) -> None:
    """The flow proposes nothing there, so a walker that accepted a proposal would have no way back."""
    recipe, _ = finished
    gap = 2 * math.pi / BINS
    monkeypatch.setattr(recipe.coordinates, "in_state_space", lambda x: x[:, 0].abs() > gap, raising=False)
    x = torch.zeros(2, 7, dtype=torch.float64)
    x[0, 0] = 2 * gap
    _, weights = recipe.rounds.log_weights_of(x, recipe.problem.reduced_energy(x))
    assert weights[0].isfinite() and weights[1] == torch.inf
    walkers = walkers_of(recipe, step_size=0.3, stride=5, proposals=40)
    walkers.start()
    walkers.sample()
    a = walkers.sample().s[:, 0].abs()
    assert float(a.min()) > gap
    p, centres = exact_maps()[0].sum(1), np.abs(CVS.centers(0))
    p = p * (centres > gap)
    for edge in (2 * gap, math.pi / 2):
        assert float((a > edge).double().mean()) == pytest.approx(p[centres > edge].sum() / p.sum(), abs=0.015)


def test_proposals_of_the_flow_alone_lead_to_the_exact_distribution(finished) -> None:
    """All walkers start at one configuration and hardly move by themselves."""
    recipe, _ = finished
    walkers = walkers_of(recipe, step_size=1e-4, stride=1, proposals=60)
    walkers._begin(torch.zeros(500, 7, dtype=torch.float64))
    walkers.sample()
    visited = walkers.sample()
    for axes, exact in zip(recipe.problem.maps, exact_maps(), strict=True):
        counts = axes.cvs.histogram(visited.s[:, list(axes.axes)].numpy())
        coarse = [p.reshape(6, 4, 6, 4).sum((1, 3)) for p in (exact, counts / counts.sum())]
        assert forward_kld(*coarse) < 8e-3  # 36 bins, 30,000 positions with a correlation of about 5: 3e-3 expected
    assert float(walkers.moves.min()) > 0


def test_weights_of_configurations_are_those_that_they_were_drawn_with(finished) -> None:
    recipe, _ = finished
    drawn = recipe.rounds.draw(1000)
    samples = drawn.samples
    x, _ = recipe.coordinates.to_cartesian(samples.s, drawn.y)
    s, log_weights = recipe.rounds.log_weights_of(x, drawn.energies)
    assert torch.allclose(s, samples.s) and torch.allclose(log_weights, samples.joint)
    chains = torch.arange(500) * 10 // 500
    assert torch.equal(samples.group, chains.repeat(2))
    nowhere = mock.patch.object(recipe.coordinates, "in_state_space", lambda x: torch.arange(len(x)) % 2 == 0)
    with nowhere:
        _, partly = recipe.rounds.log_weights_of(x, drawn.energies)
    assert partly[1::2].isposinf().all() and torch.equal(partly[::2], log_weights[::2])
    energies = torch.full_like(drawn.energies, torch.nan)
    assert recipe.rounds.log_weights_of(x, energies)[1].isposinf().all()


def test_walkers_start_where_the_weights_are(finished) -> None:
    """Each group at samples of its own chains; without any weight, anywhere."""
    recipe, _ = finished
    walkers = walkers_of(recipe, starts=10)
    walkers.start()
    assert walkers.dynamics is not None
    s = walkers.dynamics.positions[:, :5]
    exact = exact_maps()[1][:, 12:].sum()
    assert float((s[:, 2] > 0).double().mean()) == pytest.approx(exact, abs=0.1)
    with mock.patch.object(
        recipe.rounds.target, "parts", lambda s, y: (torch.full((len(s),), torch.inf), torch.zeros(len(s)))
    ):
        walkers.start()
    assert walkers.dynamics.positions.isfinite().all()


def test_weighted_samples_have_the_exact_populations(finished) -> None:
    recipe, _ = finished
    before = recipe.rounds.walkers.clone()
    drawn = recipe.weighted_samples(5000, torch.Generator().manual_seed(3))
    assert drawn is not None and torch.equal(recipe.rounds.walkers, before)
    weights = torch.softmax(drawn[1], 0)
    share = float(weights[drawn[0][:, 2] > 0].sum())
    assert share == pytest.approx(exact_maps()[1][:, 12:].sum(), abs=0.06)


def recipe_numbers(recipe: PairRecipe) -> list[dict[str, Any]]:
    """Return the history without evaluations, which the ledger counts from zero after a restart."""
    return [{name: value for name, value in entry.items() if name != "evaluations"} for entry in recipe.history]


def test_resumes_bit_for_bit() -> None:
    """After every estimate; the state goes through a file, as in a checkpoint."""
    recipe = recipe_of(1, SMALL)
    states, estimates = [], []
    for estimate in recipe.estimates():
        estimates.append(estimate)
        file = io.BytesIO()
        torch.save({"recipe": recipe.state_dict(), "streams": recipe.streams.state_dict()}, file)
        states.append(file.getvalue())
    for content in states[:-1]:
        state = torch.load(io.BytesIO(content), weights_only=True)
        other = recipe_of(1, SMALL)
        other.load_state_dict(state["recipe"])
        other.streams.load_state_dict(state["streams"])
        *_, last = other.estimates()
        for a, b in zip(last.pmfs, estimates[-1].pmfs, strict=True):
            assert np.array_equal(a.probability, b.probability)
        assert last.populations == estimates[-1].populations
        assert recipe_numbers(other) == recipe_numbers(recipe)


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match="a regular grid over 5 collective variables is too large"):
        recipe_of(0, CONFIG.model_copy(update={"atlas": CONFIG.atlas.model_copy(update={"grid": 4})}))
    system = FiveAngles()
    system.coordinates = PlainCoordinates(5, ("u", "v"), (False, True))
    with pytest.raises(UserError, match="takes no free torsions, and v turns freely"):
        PairRecipe(Problem(system, Ledger()), CONFIG, Streams(0))
