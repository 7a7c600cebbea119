"""Free torsions with several wells: the partition, the search, and the recipe against quadrature."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from cgbench.contracts.coordinates import free_torsions
from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench.contracts.problem import Problem
from cgbench.counting.ledger import Ledger
from cgbench.counting.streams import Streams
from cgbench.scoring.divergences import forward_kld
from cgbench_methods.cgflow.harmonic.atlas.rotamers import centres_of_wells, find_wells
from cgbench_methods.cgflow.harmonic.atlas.wells import Wells, WellTarget
from cgbench_methods.cgflow.harmonic.config import HarmonicConfig
from cgbench_methods.cgflow.harmonic.recipe import HarmonicRecipe
from cgbench_methods.lib.flows.target import ConditionalTarget
from tests.methods.cgflow.harmonic.plain import MadeUp, PlainCoordinates

CVS = CollectiveVariables(("phi",), (-math.pi,), (math.pi,), (True,), bins=(50,))
WELL_CENTRES = (-60.0, 60.0, 180.0)


def torsion_energy(phi: torch.Tensor, chi: torch.Tensor) -> torch.Tensor:
    """A side chain with three wells, of populations that depend strongly on phi, and barriers of 8 kT."""
    return 1.5 * torch.sin(phi - 0.4) + 4.0 * torch.cos(3 * chi) + 1.5 * torch.cos(chi - phi) + torch.cos(chi + 0.5)


class SideChain(MadeUp):
    """One CV phi, a torsion chi with three wells, and two stiff coordinates a and b that follow both.

    At given phi and chi, a and b are Gaussian with fixed widths: ``p(phi, chi) ~ exp(-torsion_energy(phi, chi))``.
    """

    name, cvs = "side_chain", CVS
    names, angles, start = ("chi", "a", "b"), (True, False, False), (-1.2, -1.0, 0.0, 0.0)

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        phi, chi, a, b = x.unbind(1)
        energy = torsion_energy(phi, chi) + 0.5 * (a - 1.5 * torch.sin(chi) - torch.cos(phi)) ** 2
        return energy + 2.0 * (b - 0.5 * a) ** 2


def exact() -> tuple[np.ndarray, np.ndarray]:
    """Return the PMF's probabilities, and the population of each well, by quadrature on a fine grid."""
    phi = torch.from_numpy(CVS.centers(0, 8))
    chi = 2 * math.pi * (torch.arange(720, dtype=torch.float64) + 0.5) / 720 - math.pi
    density = torch.exp(-torsion_energy(phi[:, None], chi))
    member = (chi[:, None] - torch.tensor(WELL_CENTRES).deg2rad()).cos().argmax(dim=1)
    wells = torch.stack([density[:, member == k].sum() for k in range(3)])
    probability = density.sum(1).reshape(50, 8).sum(1)
    return (probability / probability.sum()).numpy(), (wells / wells.sum()).numpy()


@pytest.fixture
def problem() -> Problem:
    return Problem(SideChain(), Ledger())


def config(**wells: float) -> HarmonicConfig:
    return HarmonicConfig.model_validate(
        {
            "atlas": {"max_points": 12},
            "flow": {"num_couplings": 2, "hidden_features": 16},
            "training": {"rounds": 4, "steps_per_round": 12, "batch": 128, "learning_rate": 3e-3},
            "surrogate": {"length_scales": [0.5, 1.0]},
            "labels": {"batch": 2000, "max_rounds": 2},
            "wells": wells,
        }
    )


def test_folded_torsions_are_not_free(aldp) -> None:
    assert free_torsions(aldp.coordinates).tolist() == []
    assert free_torsions(PlainCoordinates(1, ("chi", "a", "b"), (True, False, False))).tolist() == [0]


def some_wells(sharpness: float = 5.0) -> Wells:
    centres = torch.tensor([[-1.0, 0.5], [1.2, 0.5], [3.0, -2.0]], dtype=torch.float64)
    return Wells(torch.tensor([2, 0]), centres, sharpness)


def test_memberships_count_every_angle_once(generator) -> None:
    """Over all wells and all images of an angle on the line, they sum to one."""
    wells = some_wells()
    y = 6 * torch.rand(40, 3, generator=generator, dtype=torch.float64) - 3
    total = torch.zeros(40, dtype=torch.float64)
    for well in range(3):
        number = torch.full((40,), well)
        turned = wells.around(y, number)
        assert bool(((turned[:, [2, 0]] - wells.centres[well]).abs() <= math.pi).all())
        torch.testing.assert_close((turned - y).cos(), torch.ones_like(y))
        total += wells.log_memberships(turned)[:, well].exp()
        for image in (-2 * math.pi, 2 * math.pi):
            outside = turned + torch.tensor([image, 0.0, 0.0])
            assert bool(wells.log_membership(outside, number).isneginf().all())
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


def test_a_well_ends_and_softened_memberships_go_on(generator) -> None:
    """They agree where a membership is not small; the softened ones are finite, without a jump of value or slope."""
    wells = some_wells()
    y = 6 * torch.rand(2000, 3, generator=generator, dtype=torch.float64) - 3
    hard, soft = wells.log_memberships(y), wells.log_memberships(y, softened=True)
    assert bool(hard.isneginf().any()) and bool(soft.isfinite().all())
    large = hard.exp() > 0.1
    torch.testing.assert_close(soft[large], hard[large], rtol=0, atol=1e-12)
    assert float(hard.max()) == 0.0  # alone
    line = torch.zeros(20001, 3, dtype=torch.float64)
    line[:, 2], line[:, 0] = torch.linspace(-1.0, 3.0, 20001, dtype=torch.float64), 0.5
    along = wells.log_memberships(line, softened=True)[:, 0]
    slopes = along.diff() / line[:, 2].diff()
    assert float(along.diff().abs().max()) < 0.02
    assert float(slopes.diff().abs().max()) < 0.5  # where another well begins, the sum bends by m_0 times 8.9


def test_energy_in_a_well_has_its_own_gradient(problem, generator) -> None:
    target = ConditionalTarget(problem, problem.coordinates)
    wells = Wells(torch.tensor([0]), torch.tensor([[-1.0], [1.0], [3.0]], dtype=torch.float64), 5.0)
    points = wells.points(torch.tensor([[0.3], [-2.0]], dtype=torch.float64))
    y = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: WellTarget(target, wells).energy(points, v), y.requires_grad_())


def test_search_finds_the_wells(problem, generator) -> None:
    target = ConditionalTarget(problem, problem.coordinates)
    s = torch.tensor([[-1.2], [1.0], [2.5]], dtype=torch.float64)
    y = problem.initial_configuration()[1:]
    found = find_wells(target, s, y, torch.eye(3, dtype=torch.float64), config(), generator)
    assert sorted(found.centres.rad2deg().flatten().tolist()) == pytest.approx([-180, -60, 60], abs=12)


def fork_energy(phi: torch.Tensor, chi: torch.Tensor) -> torch.Tensor:
    """One well at chi = -70 degrees if phi is 180 degrees; two at -113 and -27 degrees if phi is 0."""
    along = (chi + math.radians(70.0)).cos()
    forked = (0.5 * (1 + phi.cos())) ** 8
    two = 100.0 * (along - math.cos(math.radians(43.0))) ** 2
    return forked * two + (1 - forked) * 8.0 * (1 - along) + torch.sin(phi)


class Fork(SideChain):
    """A torsion with one well at some phi and two at others; the rest is that of `SideChain`."""

    name = "fork"

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        phi, chi, a, b = x.unbind(1)
        energy = fork_energy(phi, chi) + 0.5 * (a - 1.5 * torch.sin(chi) - torch.cos(phi)) ** 2
        return energy + 2.0 * (b - 0.5 * a) ** 2


def centres_in_degrees(minima: dict[int, list[tuple[float, float]]], largest: int = 27, **given: bool) -> list:
    """Return the centres of wells of minima at the same energy, at given numbers of s."""
    angles = torch.tensor([angle for of_s in minima.values() for angle in of_s], dtype=torch.float64).deg2rad()
    number = torch.tensor([s for s, of_s in minima.items() for _ in of_s])
    distinct = torch.full((len(angles),), given.get("distinct", True))
    found = centres_of_wells(angles, torch.zeros(len(angles), dtype=torch.float64), number, distinct, largest)
    return sorted(found.rad2deg().round().tolist())


@pytest.mark.parametrize("turn", [0, 130, -100])
def test_torsion_with_two_minima_at_the_same_s_is_divided(turn) -> None:
    """The lone minima at -110 and -20 degrees are no clusters, and both are nearest to the one at -70."""

    def turned(angle: float) -> float:
        return (angle + turn + 180) % 360 - 180

    most = {s: [(turned(-70.0), 60.0)] * 6 for s in range(1, 9)}
    one = [[turned(-70), 60]]
    assert centres_in_degrees(most) == one
    forked = most | {0: [(turned(-110.0), 60.0), (turned(-20.0), 60.0)]}
    assert centres_in_degrees(forked) == sorted([turned(angle), 60] for angle in (-130, -70, -10))
    assert centres_in_degrees(forked, distinct=False) == one
    assert centres_in_degrees(forked, largest=1) == one


def test_both_torsions_may_be_divided() -> None:
    most = {s: [(-70.0, 60.0)] * 6 for s in range(1, 9)}
    forked = {0: [(-110.0, 60.0), (-20.0, 60.0), (-70.0, 20.0), (-70.0, 110.0)]}
    assert centres_in_degrees(most | forked) == [[-130, 60], [-70, 0], [-70, 60], [-70, 120], [-10, 60]]


def test_minima_at_different_s_may_share_a_well() -> None:
    """A well may move with s; nothing is split for it."""
    most = {s: [(-70.0, 60.0)] * 6 for s in range(2, 10)}
    assert centres_in_degrees(most | {0: [(-110.0, 60.0)], 1: [(-20.0, 60.0)]}) == [[-70, 60]]


def test_a_well_that_forks_is_split() -> None:
    """Its minima are too near those at other s to be clusters. With one well the forward KLD is 1.6e-2."""
    pmf, recipe = run(Problem(Fork(), Ledger()), config())
    phi = torch.from_numpy(CVS.centers(0, 8))
    chi = 2 * math.pi * (torch.arange(720, dtype=torch.float64) + 0.5) / 720 - math.pi
    density = torch.exp(-fork_energy(phi[:, None], chi)).sum(1).reshape(50, 8).sum(1)
    assert forward_kld((density / density.sum()).numpy(), pmf.probability) < 1e-3
    found = recipe.diagnostics()
    assert found["reliable"]
    assert found["late"]["effective_sample_size"] > 0.8


def run(problem: Problem, config: HarmonicConfig) -> tuple[PMF, HarmonicRecipe]:
    recipe = HarmonicRecipe(problem, config, Streams(0))
    *_, last = recipe.estimates()
    assert isinstance(last, PMF)
    return last, recipe


def test_pmf_and_populations_of_wells_are_those_of_quadrature(problem) -> None:
    pmf, recipe = run(problem, config())
    probability, populations = exact()
    assert forward_kld(probability, pmf.probability) < 1e-3
    found = recipe.diagnostics()
    order = np.argsort([angle % 360 for (angle,) in found["wells"]])  # 60, 180, 300
    assert np.array(found["well_populations"])[order] == pytest.approx(populations[[1, 2, 0]], abs=0.02)
    assert found["rounds"][-1]["effective_sample_size"] > 0.5
    assert found["reliable"] and not found["warnings"]


def test_one_well_for_all_is_not_reliable(problem) -> None:
    """A flow that knows one of three wells has perfect weights and a wrong PMF; the check of coverage notices."""
    pmf, recipe = run(problem, config(largest_number=1, wide_share=0.0))
    assert forward_kld(exact()[0], pmf.probability) > 1e-2
    found = recipe.diagnostics()
    assert found["late"]["effective_sample_size"] > 0.99
    assert not found["reliable"] and "a minimum that the flow does not generate" in found["reason"]
    assert found["warnings"] == [found["reason"]]


def test_continues_from_a_checkpoint(problem) -> None:
    recipe = HarmonicRecipe(problem, config(), Streams(3))
    estimates = recipe.estimates()
    next(estimates), next(estimates)
    state, streams = copy.deepcopy((recipe.state_dict(), recipe.streams.state_dict()))
    expected = next(estimates)
    fresh = Streams(3)
    again = HarmonicRecipe(Problem(SideChain(), Ledger()), config(), fresh)
    again.load_state_dict(state)
    fresh.load_state_dict(streams)
    np.testing.assert_array_equal(next(again.estimates()).probability, expected.probability)
