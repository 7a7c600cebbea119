"""Restraints against autograd and closed forms, exchange against the exact joint distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.lib.sampling.exchange import WindowExchange, matchings, rearranged
from cgbench_methods.lib.sampling.restraints import HarmonicRestraints

MIXED = CollectiveVariables(("angle", "distance"), (-math.pi, 0.0), (math.pi, 2.0), (True, False))
LINE = CollectiveVariables(("s",), (-5.0,), (5.0,), (False,))


def uniform(count: int, generator: torch.Generator) -> torch.Tensor:
    low, high = (torch.tensor(bound, dtype=torch.float64) for bound in (MIXED.lower, MIXED.upper))
    return low + (high - low) * torch.rand(count, 2, generator=generator, dtype=torch.float64)


def test_restraint_gradient_against_autograd(generator) -> None:
    restraints = HarmonicRestraints(MIXED, uniform(50, generator), (12.0, 30.0))
    s = uniform(50, generator).requires_grad_()
    energy, gradient = restraints.energy_and_gradient(s.detach())
    (truth,) = torch.autograd.grad(restraints.energy(s).sum(), s)
    torch.testing.assert_close(gradient, truth, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(energy, restraints.energy(s.detach()), rtol=1e-12, atol=1e-12)


def test_restraints_are_harmonic_near_their_centre_and_close_around_a_period() -> None:
    centre = torch.tensor([[math.pi - 0.01, 1.0]], dtype=torch.float64)
    restraints = HarmonicRestraints(MIXED, centre, (12.0, 30.0))
    d = torch.tensor([[0.03, -0.2]], dtype=torch.float64)
    harmonic = 0.5 * (12.0 * 0.03**2 + 30.0 * 0.2**2)
    assert float(restraints.energy(centre + d)) == pytest.approx(harmonic, rel=1e-4)
    around = centre + d - torch.tensor([[2 * math.pi, 0.0]], dtype=torch.float64)
    assert float(restraints.energy(around)) == pytest.approx(float(restraints.energy(centre + d)), rel=1e-12)
    all_pairs = restraints.between((centre + d)[:, None], centre[None])
    assert all_pairs.shape == (1, 1)
    torch.testing.assert_close(all_pairs[0], restraints.energy(centre + d))


def test_matchings_hold_every_pair_once_and_no_window_twice() -> None:
    pairs = torch.tensor([(i, j) for i in range(6) for j in range(i + 1, 6)])
    sets = matchings(pairs)
    assert sorted(map(tuple, torch.cat(sets).tolist())) == sorted(map(tuple, pairs.tolist()))
    for one in sets:
        assert len(one.flatten().unique()) == one.numel()


def test_exchange_keeps_the_joint_distribution(generator) -> None:
    """Walkers drawn exactly from their windows on flat ground stay distributed so, however often they are exchanged.

    Window 1 has two walkers, its neighbours one each. 20,000 independent ensembles, each in windows of its own;
    Kolmogorov-Smirnov at p > 1e-3 for each walker, means and the correlation of two walkers within 4 sigma.
    """
    ensembles, centres, stiffness = 20_000, torch.tensor([0.0, 0.7, 0.7, 1.6], dtype=torch.float64), 2.0
    kind = torch.tensor([0, 1, 1, 2])
    width = 1 / math.sqrt(stiffness)
    restraints = HarmonicRestraints(LINE, torch.zeros(1, 1), (stiffness,))
    s = (centres + width * torch.randn(ensembles, 4, generator=generator, dtype=torch.float64)).reshape(-1, 1)
    window = (kind + 3 * torch.arange(ensembles)[:, None]).flatten()
    pairs = (
        torch.tensor([[0, 1], [1, 2]]).repeat(ensembles, 1) + 3 * torch.arange(ensembles).repeat_interleave(2)[:, None]
    )
    exchange = WindowExchange(restraints.between, centres.repeat(ensembles)[:, None], window, pairs[:0], generator)
    exchange.sets = [pairs[0::2], pairs[1::2]]  # the greedy colouring of so many pairs would take a minute
    exchange.counts = torch.bincount(window)
    before = s.clone()
    for _ in range(5):
        s = s[exchange.attempt(s)]
    assert 0.2 < exchange.accepted / exchange.attempted < 0.8
    assert torch.equal(s.sort(0).values, before.sort(0).values)
    walkers = ((s.reshape(ensembles, 4) - centres) / width).numpy()
    for column in walkers.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
        assert abs(column.mean()) < 4 / math.sqrt(ensembles)
    for i, j in ((0, 1), (1, 2), (2, 3)):
        assert abs(np.mean(walkers[:, i] * walkers[:, j])) < 4 / math.sqrt(ensembles)


def test_exchange_of_equal_windows_is_always_accepted_and_never_leaves_the_pairs(generator) -> None:
    restraints = HarmonicRestraints(LINE, torch.zeros(1, 1), (1.0,))
    window = torch.tensor([0, 1, 2])
    exchange = WindowExchange(
        restraints.between, torch.zeros(3, 1, dtype=torch.float64), window, torch.tensor([[0, 1]]), generator
    )
    order = exchange.attempt(torch.tensor([[0.1], [-2.0], [3.0]]))
    assert order.tolist() == [1, 0, 2]


def test_rearranged_state_moves_everything_that_belongs_to_a_walker() -> None:
    state = {"positions": torch.arange(6.0).reshape(3, 2), "energies": None}
    moved = rearranged(state, torch.tensor([2, 0, 0]))
    assert moved["positions"].tolist() == [[4.0, 5.0], [0.0, 1.0], [0.0, 1.0]] and moved["energies"] is None
