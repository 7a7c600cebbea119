"""Dihedrals against mdtraj, chirality against its mirror image."""

from __future__ import annotations

import mdtraj
import numpy as np
import torch

from cgbench_systems.molecular.geometry import dihedral, obtuse, triple_product
from tests.systems.alanine import make_topology


def test_dihedrals_have_mdtrajs_signs(varied_configurations: torch.Tensor) -> None:
    x = varied_configurations
    trajectory = mdtraj.Trajectory(x.numpy(), mdtraj.Topology.from_openmm(make_topology()))
    quadruples = np.random.default_rng(0).permuted(np.tile(np.arange(22), (40, 1)), axis=1)[:, :4]
    ours = torch.stack([dihedral(*(x[:, atom] for atom in atoms)) for atoms in quadruples], dim=1)
    theirs = mdtraj.compute_dihedrals(trajectory, quadruples, periodic=False, opt=False)
    difference = np.angle(np.exp(1j * (ours.numpy() - theirs)))
    assert np.abs(difference).max() < 1e-3  # mdtraj keeps positions in float32
    assert np.median(np.abs(difference)) < 1e-5


def test_dihedral_lies_below_pi() -> None:
    a, b, c = (torch.tensor([v], dtype=torch.float64) for v in ([0.0, 1, 0], [0.0, 0, 0], [1.0, 0, 0]))
    assert float(dihedral(a, b, c, torch.tensor([[1.0, -1, 0]], dtype=torch.float64))) == -np.pi
    assert float(dihedral(a, b, c, torch.tensor([[1.0, 1, 0]], dtype=torch.float64))) == 0.0


def test_triple_product_changes_sign_in_the_mirror(varied_configurations: torch.Tensor) -> None:
    product = triple_product(varied_configurations, 8, (6, 14, 10))
    mirrored = triple_product(varied_configurations * torch.tensor([1.0, 1.0, -1.0]), 8, (6, 14, 10))
    torch.testing.assert_close(mirrored, -product)


def test_obtuse_dihedrals_are_those_beyond_90_degrees(generator) -> None:
    x = torch.randn(500, 6, 3, generator=generator, dtype=torch.float64)
    quadruples = torch.tensor([[0, 1, 2, 3], [5, 2, 4, 1], [3, 4, 5, 0]])
    angles = torch.stack([dihedral(*(x[:, atom] for atom in four)) for four in quadruples], dim=1)
    assert torch.equal(obtuse(x, quadruples), angles.abs() > torch.pi / 2)
