"""Verification passes for the true molecule and fails for every planted fault."""

from __future__ import annotations

import functools

import numpy as np
import openmm
import pytest
import torch
from openmm import app

from cgbench.contracts.reference import Reference
from cgbench.contracts.system import Check
from cgbench_systems.aldp import AlanineDipeptide
from cgbench_systems.molecular.reference.dynamics_check import compare_dynamics
from cgbench_systems.molecular.reference.verify import Sampling, _occupation, cells, flattening_bias, verify
from cgbench_systems.molecular.system import torsion_cvs
from tests.systems.alanine import initial_positions, make_coordinates, make_topology

SMALL = Sampling(walkers=256, equilibration=800, steps=1600, compile=False)


def solvated(*files: str) -> openmm.System:
    field = app.ForceField("amber96.xml", *files)
    return field.createSystem(make_topology(), nonbondedMethod=app.NoCutoff, constraints=None, removeCMMotion=False)


class Hot(AlanineDipeptide):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = 310.0


class OtherSolvent(AlanineDipeptide):
    def openmm_system(self) -> openmm.System:
        return solvated("implicit/obc2.xml")


class Vacuum(AlanineDipeptide):
    def openmm_system(self) -> openmm.System:
        return solvated()


class Swapped(AlanineDipeptide):
    def collective_variables(self, x: torch.Tensor) -> torch.Tensor:
        return super().collective_variables(x).flip(1)


class Mirrored(AlanineDipeptide):
    def collective_variables(self, x: torch.Tensor) -> torch.Tensor:
        return -super().collective_variables(x)


class DAlanine(AlanineDipeptide):
    """The mirror image; its phi and psi have opposite signs."""

    def __init__(self) -> None:
        super().__init__()
        self.coordinates = make_coordinates("default", self.initial_configuration())

    def initial_configuration(self) -> torch.Tensor:
        return torch.from_numpy(initial_positions() * np.array([1.0, 1.0, -1.0]))


@functools.cache
def certified() -> Reference:
    return AlanineDipeptide().reference()


def outcome(system: AlanineDipeptide) -> dict[str, Check]:
    return {check.name: check for check in verify(system, certified(), SMALL, log=lambda text: None)}


def test_the_true_molecule_passes() -> None:
    found = outcome(AlanineDipeptide())
    assert all(check.passed for check in found.values()), found
    assert set(found) == {
        "energies of fixed configurations",
        "state space",
        "occupation of the torus",
        "tilt along the PMF",
        "mean potential energy",
    }


@pytest.mark.parametrize("fault", [Hot, OtherSolvent, Vacuum, Swapped, Mirrored, DAlanine])
def test_a_planted_fault_fails(fault: type[AlanineDipeptide]) -> None:
    found = outcome(fault())
    assert not all(check.passed for check in found.values()), found


@pytest.mark.parametrize("bins", [10, 36, 100, 101])
def test_every_grid_has_cells_and_a_bias_that_it_can_tell(bins: int) -> None:
    cvs = torsion_cvs(("phi", "psi"), bins)
    cell = cells(cvs)
    assert sorted(set(cell)) == list(range(100)) and np.bincount(cell).max() <= (bins // 10 + 1) ** 2
    angle = cvs.grid()
    assert np.all(np.diff(angle[cell // 10 == 3][:, 0].round(9)) >= 0)
    p = np.exp(-4.0 * np.cos(angle[:, 0]) - 2.0 * np.sin(angle[:, 1])).reshape(cvs.bins)
    bias = flattening_bias(cvs, p / p.sum())
    total = -np.log(p).ravel() + bias.energy(torch.from_numpy(angle)).numpy()
    assert np.ptp(total) < (2.0 if bins == 10 else 0.2)
    counts = np.random.default_rng(0).multinomial(2000, np.bincount(cell, p.ravel()) / p.sum(), size=400)
    assert all(check.passed for check in _occupation(counts.astype(float), p / p.sum(), p, cell))


def test_flattening_bias_flattens() -> None:
    p = certified().pmf.probability
    bias = flattening_bias(certified().pmf.cvs, p)
    grid = torch.from_numpy(certified().pmf.cvs.grid())
    energy = -np.log(p).ravel()
    total = energy + bias.energy(grid).numpy()
    low = energy - energy.min() < 10.0
    assert np.ptp(energy[low]) > 9.0 and total[low].std() < 0.5


def test_openmm_agrees_on_the_dynamics_and_notices_another_force_field(aldp: AlanineDipeptide) -> None:
    options = {"trajectories": 60, "batched": 600, "steps": (60,)}
    assert all(c.passed for c in compare_dynamics(aldp, aldp.openmm_system(), **options))
    assert not all(c.passed for c in compare_dynamics(aldp, solvated(), **options))
