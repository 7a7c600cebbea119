"""Automatic Z-matrices: the chosen torsions, the round trip, the Jacobian."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cgbench.errors import UserError
from cgbench_systems.molecular.geometry import dihedral
from cgbench_systems.molecule import Molecule
from cgbench_systems.molecule.coordinates import molecule_coordinates
from cgbench_systems.molecule.definition import CV, Definition
from cgbench_systems.molecule.graph import BondGraph
from cgbench_systems.molecule.structure import read_pdb
from cgbench_systems.molecule.torsions import named_torsions
from cgbench_systems.molecule.zmatrix import build_zmatrix
from tests.systems.molecule.conftest import TETRA, VALINE


@pytest.mark.parametrize("name", ["valine", "tetra"])
def test_round_trip(name: str, request: pytest.FixtureRequest, generator: torch.Generator) -> None:
    system: Molecule = request.getfixturevalue(name)
    start = system.initial_configuration()
    x = start + 0.004 * torch.randn(50, *start.shape, generator=generator, dtype=torch.float64)
    s, y, log_det = system.coordinates.to_internal(x)
    again, log_det_back = system.coordinates.to_cartesian(s, y)
    assert torch.allclose(s, system.collective_variables(x), atol=1e-12)
    assert torch.allclose(system.coordinates.to_internal(again)[1], y, atol=1e-9)
    assert torch.allclose(log_det, -log_det_back, atol=1e-9)
    energies = system.reduced_energy(x), system.reduced_energy(again)  # equal hydrogens may be exchanged
    assert torch.allclose(*energies, rtol=1e-9)


@pytest.mark.parametrize("name", ["valine", "tetra"])
def test_log_det_against_automatic_differentiation(name: str, request: pytest.FixtureRequest) -> None:
    system: Molecule = request.getfixturevalue(name)
    s, y, _ = system.coordinates.to_internal(system.initial_configuration()[None] * 1.01)
    cvs = s.shape[1]

    def free_part(both: torch.Tensor) -> torch.Tensor:
        """Cartesian coordinates without the six that the frame of the reference atoms fixes."""
        x = system.coordinates.to_cartesian(both[None, :cvs], both[None, cvs:])[0][0]
        a, b, c = system.coordinates.reference_atoms
        fixed = {(a, 0), (a, 1), (a, 2), (b, 1), (b, 2), (c, 2)}
        return torch.stack([x[i, k] for i in range(len(x)) for k in range(3) if (i, k) not in fixed])

    both = torch.cat([s[0], y[0]])
    matrix = torch.autograd.functional.jacobian(free_part, both)
    x, log_det = system.coordinates.to_cartesian(s, y)
    a, b, c = system.coordinates.reference_atoms
    # rigid motion: the volume of a frame is r1^2 times the distance of c from the axis
    frame = 2 * torch.log(x[0, b, 0]) + torch.log(x[0, c, 1].abs())
    assert float(torch.linalg.slogdet(matrix)[1] + frame) == pytest.approx(float(log_det[0]), abs=1e-6)


def test_all_six_torsions_of_the_tetrapeptide_are_dihedrals() -> None:
    structure = read_pdb(TETRA)
    torsions = {name: t for name, t in named_torsions(structure).items() if name.startswith(("phi", "psi"))}
    z = build_zmatrix(structure.graph, list(torsions.values()), list(torsions), structure.positions)
    rows = {row[0]: row for row in z.rows}
    for atom, torsion in zip(z.cv_atoms, torsions.values(), strict=True):
        assert rows[atom] in (torsion, torsion[::-1])
    assert sorted([*z.reference_atoms, *rows]) == list(range(42)) and len(z.rotors) == 5 and not z.free_atoms


def test_side_chains_rotate_unless_they_are_chosen() -> None:
    structure = read_pdb(VALINE)
    named = named_torsions(structure)
    free = build_zmatrix(structure.graph, [named["phi 2"]], ["phi 2"], structure.positions)
    bonds = {frozenset(row[1:3]) for row in free.rows if row[0] in free.free_atoms}
    assert bonds == {frozenset(named[name][1:3]) for name in ("psi 2", "chi1 2")}
    chosen = build_zmatrix(structure.graph, [named["phi 2"], named["chi1 2"]], ["phi", "chi1"], structure.positions)
    assert {frozenset(row[1:3]) for row in chosen.rows if row[0] in chosen.free_atoms} == {
        frozenset(named["psi 2"][1:3])
    }


def test_a_hydroxyl_and_a_ring_round_trip(generator: torch.Generator) -> None:
    """Impropers stay near-rigid and the ring closes: coordinates vary by about one unit under thermal noise."""
    structure = read_pdb(VALINE)
    named = named_torsions(structure)
    z = build_zmatrix(structure.graph, [named["phi 2"], named["psi 2"]], ["phi", "psi"], structure.positions)
    x = torch.from_numpy(structure.positions)
    for atom, i, j, k in z.rows:
        if k in structure.graph.neighbours[i]:  # improper
            angle = abs(float(dihedral(*(x[index] for index in (atom, i, j, k)))))
            assert angle > np.radians(80), (atom, i, j, k)


def test_mistakes_take_one_line() -> None:
    structure = read_pdb(VALINE)
    named, graph, positions = named_torsions(structure), structure.graph, structure.positions
    with pytest.raises(UserError, match="must be different and bonded"):
        build_zmatrix(graph, [(0, 6, 8, 10)], ["odd"], positions)
    other = (9, *named["psi 2"][1:3][::1], 11)
    other = (9, 8, 10, 11)
    with pytest.raises(UserError, match="turn about the same bond"):
        build_zmatrix(graph, [named["psi 2"], other], ["psi 2", "other"], positions)
    straight = positions.copy()
    a, b, c, d = named["chi1 2"]
    straight[d] = 2 * straight[c] - straight[b]
    with pytest.raises(UserError, match="on a straight line"):
        build_zmatrix(graph, [named["phi 2"]], ["phi 2"], straight)


def test_linear_reference_atoms_take_one_line() -> None:
    carbon_dioxide = BondGraph(("O", "C", "O"), [(0, 1), (1, 2)])
    positions = np.array([[-0.116, 0.0, 0.0], [0.0, 0.0, 0.0], [0.116, 0.0, 0.0]])
    with pytest.raises(UserError, match="the atoms 0, 1 and 2 .* are on a straight line"):
        build_zmatrix(carbon_dioxide, [], [], positions)
    positions[2] = (0.05, 0.1, 0.0)
    assert build_zmatrix(carbon_dioxide, [], [], positions).rows == ()


def test_the_torsion_of_a_methyl_group_is_not_folded_where_it_is_chosen() -> None:
    structure = read_pdb(VALINE)
    graph = structure.graph  # CB is atom 12, CG1 atom 14
    methyl = next((a, 12, 14, h) for a in graph.neighbours[12] if a != 14 for h in graph.neighbours[14] if h != 12)
    z = build_zmatrix(graph, [methyl], ["chi"], structure.positions)
    rotating = {atom for rotor in z.rotors for atom in (rotor.first, *rotor.others)}
    assert z.cv_atoms[0] in (methyl[0], methyl[3]) and not rotating & set(z.cv_atoms) and len(z.rotors) == 3
    x = torch.from_numpy(structure.positions)
    labels = [structure.labels[atom] for atom in methyl]
    definition = Definition(
        pdb="valine.pdb", force_field=["amber96.xml"], cvs=[CV(name="chi", dihedral=labels)], maps=[["chi"]]
    )
    coordinates = molecule_coordinates(structure, definition, [methyl], x)["default"]
    x = x[None] + 0.003 * torch.randn(20, *x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s, _, _ = coordinates.to_internal(x)
    assert torch.allclose(s[:, 0], dihedral(*(x[:, atom] for atom in methyl)), atol=1e-12)
