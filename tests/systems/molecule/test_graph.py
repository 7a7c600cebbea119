"""The bond graph, on molecules whose chemistry is known."""

from __future__ import annotations

from cgbench_systems.molecule.graph import BondGraph
from cgbench_systems.molecule.structure import read_pdb
from tests.systems.molecule.conftest import TETRA, VALINE


def hydrogens(atoms: str, bonds: list[tuple[int, int]], missing: dict[int, int]) -> BondGraph:
    """A graph from heavy atoms and the number of hydrogens on each."""
    elements, pairs = list(atoms), list(bonds)
    for atom, count in missing.items():
        for _ in range(count):
            pairs.append((atom, len(elements)))
            elements.append("H")
    return BondGraph(elements, pairs)


def test_valine() -> None:
    structure = read_pdb(VALINE)
    graph, labels = structure.graph, structure.labels
    assert [labels[centre.atom] for centre in graph.stereocentres] == ["2:CA"]  # CB has two equal methyl groups
    assert [(labels[a.carbon], labels[a.nitrogen]) for a in graph.amide_bonds] == [("1:C", "2:N"), ("2:C", "3:N")]
    assert {labels[atom] for atom, _ in graph.rotors} == {"1:CH3", "2:CG1", "2:CG2", "3:C"}
    free = {(labels[t.bond[0]], labels[t.bond[1]]): t.wells for t in graph.free_torsions}
    assert free == {("2:N", "2:CA"): 6, ("2:CA", "2:C"): 6, ("2:CA", "2:CB"): 3}
    assert not graph.ring_bonds


def test_an_amine_is_not_planar_and_an_amide_is() -> None:
    # CH3-CH2-NH2 and CH3-C(=O)-NH2: half a turn of the amine's hydrogens is no exchange that changes nothing
    amine = hydrogens("CCN", [(0, 1), (1, 2)], {0: 3, 1: 2, 2: 2})
    amide = hydrogens("CCON", [(0, 1), (1, 2), (1, 3)], {0: 3, 3: 2})
    assert not amine.is_planar(2) and amide.is_planar(3)


def test_every_residue_of_the_tetrapeptide_is_found() -> None:
    structure = read_pdb(TETRA)
    assert [structure.labels[c.atom] for c in structure.graph.stereocentres] == ["2:CA", "3:CA", "4:CA"]
    assert len(structure.graph.amide_bonds) == 4 and len(structure.graph.rotors) == 5


def test_butanol_has_one_stereocentre_and_a_hydroxyl() -> None:
    # CH3-CH(OH)-CH2-CH3
    graph = hydrogens("CCOCC", [(0, 1), (1, 2), (1, 3), (3, 4)], {0: 3, 1: 1, 2: 1, 3: 2, 4: 3})
    assert [centre.atom for centre in graph.stereocentres] == [1]
    assert {t.bond: t.wells for t in graph.free_torsions} == {(1, 2): 3, (1, 3): 3}
    assert [atom for atom, _ in graph.rotors] == [0, 4]


def test_phenol_has_a_ring_and_a_hydroxyl_with_two_wells() -> None:
    ring = [(k, (k + 1) % 6) for k in range(6)]
    graph = hydrogens("CCCCCCO", [*ring, (0, 6)], {1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1})
    assert graph.ring_bonds == {frozenset(bond) for bond in ring}
    assert [(t.bond, t.wells) for t in graph.free_torsions] == [((0, 6), 2)]


def test_two_molecules_are_two_pieces() -> None:
    graph = BondGraph("OHHOHH", [(0, 1), (0, 2), (3, 4), (3, 5)])
    assert graph.pieces() == [[0, 1, 2], [3, 4, 5]]
