"""Training does not depend on the zero of the energy: the ratio of the densities needs the constant of the PMF."""

from __future__ import annotations

import pytest
import torch

from cgbench.contracts.problem import Problem
from cgbench.counting.ledger import Ledger
from cgbench.counting.streams import Streams
from cgbench_methods.cgflow.harmonic.config import HarmonicConfig
from cgbench_methods.cgflow.harmonic.pairs.recipe import PairRecipe
from cgbench_methods.cgflow.harmonic.recipe import HarmonicRecipe
from tests.methods.cgflow.harmonic import test_pair_recipe, test_three_cvs, test_wells

LIFT = 300.0  # kT

CASES = {
    "wells": (HarmonicRecipe, test_wells.SideChain, test_wells.config()),
    "three CVs": (HarmonicRecipe, test_three_cvs.ThreeTorsions, test_three_cvs.CONFIG),
    "five CVs": (PairRecipe, test_pair_recipe.FiveAngles, test_pair_recipe.SMALL),
}


class Lifted(Problem):
    """A problem with a constant added to all energies."""

    def reduced_energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        energy, gradient = super().reduced_energy_and_gradient(x)
        return energy + LIFT, gradient

    def reduced_energy(self, x: torch.Tensor) -> torch.Tensor:
        return super().reduced_energy(x) + LIFT


def first_round(
    kind: type[HarmonicRecipe] | type[PairRecipe], problem: Problem, config: HarmonicConfig
) -> torch.Tensor:
    """Return the change of the flow's parameters in the first round of training."""
    recipe = kind(problem, config, Streams(1))
    estimates = recipe.estimates()
    next(estimates)
    before = parameters(recipe)
    next(estimates)
    return parameters(recipe) - before


def parameters(recipe: HarmonicRecipe | PairRecipe) -> torch.Tensor:
    """Return the flow's parameters in one vector."""
    flow = recipe.rounds.flow
    assert flow is not None
    return torch.nn.utils.parameters_to_vector(flow.parameters()).detach().clone()


@pytest.mark.parametrize("case", CASES)
def test_first_round_of_training(case: str) -> None:
    kind, system, config = CASES[case]
    change, lifted = (first_round(kind, own(system(), Ledger()), config) for own in (Problem, Lifted))
    assert float(change.abs().max()) > 1e-3
    torch.testing.assert_close(lifted, change, rtol=1e-3, atol=1e-6)
