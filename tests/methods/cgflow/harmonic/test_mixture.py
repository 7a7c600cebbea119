"""Weights of samples of all wells together, against quadrature; and what they are for."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from cgbench.contracts.problem import Problem
from cgbench.counting.ledger import Ledger
from cgbench.counting.streams import Streams
from cgbench_methods.cgflow.harmonic.flow import draw_weighted_samples
from cgbench_methods.cgflow.harmonic.recipe import HarmonicRecipe
from cgbench_methods.lib.estimators.importance import effective_sample_size
from tests.methods.cgflow.harmonic.test_wells import Fork, SideChain, config, fork_energy, torsion_energy

SAMPLES = 20_000
CHI = 2 * math.pi * (torch.arange(720, dtype=torch.float64) + 0.5) / 720 - math.pi
SYSTEMS = {"side chain": (SideChain, torsion_energy), "fork": (Fork, fork_energy)}


@functools.cache
def recipe_of(system: type, estimates: int) -> HarmonicRecipe:
    """Return a recipe after some estimates: one is the harmonic start, without training."""
    recipe = HarmonicRecipe(Problem(system(), Ledger()), config(), Streams(1))
    steps = recipe.estimates()
    for _ in range(estimates):
        next(steps)
    return recipe


def log_density(energy, phi: float) -> float:
    """Return ``-A(phi)``: chi by quadrature, the Gaussians of a and b exactly."""
    value = torch.exp(-energy(torch.tensor(phi, dtype=torch.float64), CHI)).sum() * 2 * math.pi / len(CHI)
    return float(value.log()) + math.log(2 * math.pi / math.sqrt(4.0))


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("estimates", [1, 3])
@pytest.mark.parametrize("phi", [-2.0, -0.3])
def test_mean_weight_and_mean_slope_are_exact(name, estimates, phi, generator) -> None:
    """Whatever the flow is: before training, and after."""
    system, energy = SYSTEMS[name]
    recipe = recipe_of(system, estimates)
    rounds = recipe.rounds
    assert rounds.shares is not None and rounds.flow is not None
    points, _ = rounds.shares.draw(torch.full((SAMPLES, 1), phi, dtype=torch.float64), generator)
    given = (rounds.flow, rounds.target, points, rounds.basis)
    state = generator.get_state()
    log_weights, slopes = draw_weighted_samples(*given, generator, mean_force=True, reweight=rounds.reweight)
    generator.set_state(state)
    same, none = draw_weighted_samples(*given, generator, mean_force=False, reweight=rounds.reweight)
    torch.testing.assert_close(same, log_weights)
    assert none is None and slopes is not None
    w = (log_weights - log_density(energy, phi)).exp()
    assert float(w.mean()) == pytest.approx(1.0, abs=4.5 * float(w.std()) / math.sqrt(SAMPLES))
    moved = torch.where(w > 0, w * slopes[:, 0], 0.0)
    expected = (log_density(energy, phi + 1e-4) - log_density(energy, phi - 1e-4)) / 2e-4
    error = float((moved - expected * w).std()) / math.sqrt(SAMPLES)
    assert float(moved.mean() / w.mean()) == pytest.approx(expected, abs=4.5 * error)


def test_samples_between_wells_have_no_large_weights(generator) -> None:
    """At phi = 0 the fork has two wells, and the well between them has their slopes."""
    recipe = recipe_of(Fork, 3)
    rounds = recipe.rounds
    assert rounds.shares is not None and rounds.flow is not None
    points, log_share = rounds.shares.draw(torch.zeros(SAMPLES, 1, dtype=torch.float64), generator)
    drawn = []
    for reweight in (rounds.reweight, None):
        found, _ = draw_weighted_samples(
            rounds.flow,
            rounds.target,
            points,
            rounds.basis,
            generator.manual_seed(5),
            mean_force=False,
            reweight=reweight,
        )
        drawn.append(found if reweight else found - log_share)
    together, alone = (float(effective_sample_size(log_weights)) for log_weights in drawn)
    assert together > 0.7
    assert together > 1.5 * alone
