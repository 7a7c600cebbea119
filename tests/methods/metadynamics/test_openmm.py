"""The OpenMM variant against the batched one."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy import stats

from cgbench.contracts.problem import Problem
from cgbench.counting.ledger import Ledger
from cgbench_methods.metadynamics.config import MetadynamicsConfig
from cgbench_methods.metadynamics.openmm_sampler import OpenMMSampler
from cgbench_methods.metadynamics.sampler import BatchedSampler
from cgbench_systems.aldp import AlanineDipeptide


def problem() -> Problem:
    return Problem(AlanineDipeptide(engine="openmm"), Ledger())


def test_hills_have_the_same_shape_and_heights() -> None:
    """Two hills of one walker, by ``app.Metadynamics`` and by the series, as seen on the grid of the PMF."""
    config = MetadynamicsConfig(walkers=1, pace=5, height=3.0, width=0.06, bias_factor=4.0, bias_order=16)
    theirs = OpenMMSampler(problem(), config, torch.Generator().manual_seed(1))
    ours = BatchedSampler(Problem(AlanineDipeptide(), Ledger()), config, torch.Generator().manual_seed(1))
    widths, height = config.widths(ours.problem.cvs), 3.0
    theirs.begin()
    for _ in range(2):
        theirs.deposit()
        s, bias = theirs.sample()
        place = torch.from_numpy(s)
        lowered = height * torch.exp(-ours.bias.energy(place) / (config.bias_factor - 1.0))
        ours.bias.deposit(place, lowered, widths)
        assert bias[0] == pytest.approx(float(ours.bias.energy(place)), abs=5e-3)
    np.testing.assert_allclose(theirs.bias_on_grid(), ours.bias_on_grid(), atol=5e-3)
    assert theirs.problem.evaluations == 1 + 2 * 5  # OpenMM evaluates forces to draw velocities


def test_walkers_under_hills_spread_as_the_batched_ones_do(aldp) -> None:
    """phi and psi of walkers pushed out of the minimum by hills, against ten times as many batched ones."""
    settings = {"pace": 20, "height": 200.0, "width": 0.05, "bias_factor": 20.0, "friction": 20.0}
    theirs = OpenMMSampler(problem(), MetadynamicsConfig(walkers=40, **settings), torch.Generator().manual_seed(2))
    theirs.begin()
    theirs.deposit()
    theirs.advance(60)
    s = theirs.sample()[0]
    ours = BatchedSampler(
        Problem(aldp, Ledger()), MetadynamicsConfig(walkers=400, **settings), torch.Generator().manual_seed(3)
    )
    ours.deposit()
    free = ours.sample()[0]
    ours.advance(60)
    expected = ours.sample()[0]
    for axis in range(2):
        turned = [np.angle(np.exp(1j * (values[:, axis] - free[:, axis].mean()))) for values in (s, expected, free)]
        assert stats.ks_2samp(turned[0], turned[1]).pvalue > 1e-3
    assert stats.ks_2samp(np.abs(turned[0]), np.abs(turned[2])).pvalue < 1e-3  # the hills did push


def test_openmm_goes_on_from_its_state_bit_identically() -> None:
    config = MetadynamicsConfig(walkers=2, pace=5, deposits=2)
    samplers = [OpenMMSampler(problem(), config, torch.Generator().manual_seed(4)) for _ in range(2)]
    one, other = samplers
    one.begin()
    one.deposit()
    state, words = one.state_dict(), one.generator.get_state()
    state = copy.deepcopy(state)
    one.begin()
    one.deposit()
    other.load_state_dict(state)
    other.generator.set_state(words)
    other.begin()
    other.deposit()
    assert torch.equal(one.state_dict()["positions"], other.state_dict()["positions"])
    assert torch.equal(one.state_dict()["bias"], other.state_dict()["bias"])
