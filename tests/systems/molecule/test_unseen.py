"""Molecules of kinds that no other test has: protonation states, rings, double bonds, linear groups, no IUPAC names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import app

from cgbench.errors import UserError
from cgbench_systems.molecule import Molecule, files, load_molecule
from cgbench_systems.molecule.describe import describe_system
from cgbench_systems.molecule.graph import BondGraph
from cgbench_systems.molecule.sequence import build_peptide
from cgbench_systems.molecule.structure import Structure, create_system, read_pdb
from tests.systems.molecule.conftest import FORCE_FIELD, VALINE

FORCES = ("amber14-all.xml",)
# carbons of trans hex-3-ene with one hydrogen each at C3 and C4 and one methyl hydrogen for the others' valences
HEXENE = {
    "C1": (0.00, 0.00, 0.00),
    "C2": (0.50, 1.45, 0.00),
    "C3": (2.00, 1.45, 0.10),
    "C4": (2.70, 2.59, 0.10),
    "C5": (4.20, 2.59, 0.20),
    "C6": (4.80, 4.00, 0.00),
}


def ligand(path: Path, atoms: dict[str, tuple[float, float, float]], bonds: list[tuple[int, int]]) -> Path:
    """Write a PDB file of one residue LIG with CONECT records, positions in angstrom."""
    lines = [
        f"HETATM{serial:5d} {name:<4s} LIG A   1    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {name[0]:>2s}"
        for serial, (name, (x, y, z)) in enumerate(atoms.items(), 1)
    ]
    lines += [f"CONECT{i + 1:5d}{j + 1:5d}" for i, j in bonds]
    path.write_text("\n".join([*lines, "END", ""]))
    return path


def chain(path: Path, elements: str, step: float = 1.5) -> tuple[Path, Path]:
    """Write a zigzag chain and a serialised system with harmonic bonds, as a PDB file and an XML file."""
    atoms = {f"{e}{n}": (1.2 * n, step * (n % 2), 0.3 * (n % 3)) for n, e in enumerate(elements, 1)}
    bonds = [(n, n + 1) for n in range(len(elements) - 1)]
    system, force = openmm.System(), openmm.HarmonicBondForce()
    for _ in elements:
        system.addParticle(12.0)
    for i, j in bonds:
        x, y = (np.array(list(atoms.values())[k]) for k in (i, j))
        force.addBond(i, j, float(np.linalg.norm(x - y)) / 10, 1e5)
    system.addForce(force)
    xml = path.with_suffix(".xml")
    xml.write_text(openmm.XmlSerializer.serialize(system))
    return ligand(path, atoms, bonds), xml


@pytest.mark.parametrize(
    ("residue", "hydrogens"), [("ASH", 5), ("GLH", 7), ("HID", 7), ("HIE", 7), ("HIP", 8), ("LYN", 12)]
)
def test_protonation_states_by_their_names(residue: str, hydrogens: int) -> None:
    structure = Structure(*build_peptide(f"ACE {residue} NME"), "sequence")
    create_system(structure, FORCES, Path())
    own = [atom for atom in structure.topology.atoms() if atom.residue.index == 1]
    assert sum(atom.element is app.element.hydrogen for atom in own) == hydrogens
    names = {atom.name for atom in own}
    assert {"HID": "HD1", "HIE": "HE2", "ASH": "HD2", "GLH": "HE2"}.get(residue, "HA") in names


def test_the_new_file_of_proline_loads(tmp_path: Path) -> None:
    """Phi turns about a bond of the ring, and is not proposed."""
    out = tmp_path / "pro.yaml"
    text, _ = files.new(None, "ACE PRO NME", FORCES, 300.0, out)
    out.write_text(text)
    system = load_molecule(out)()
    assert system.cvs.names == ("psi 2",)
    assert [trans for _, trans in system.coordinates.amides] == [True, True]
    for ask in (system.reference, lambda: system.reference_builder(tmp_path)):
        with pytest.raises(UserError, match="for two CVs or several maps, not for one CV"):
            ask()
    assert f"  energy: {', '.join(FORCES)}, in vacuum, without cutoff" in describe_system(system)


def test_the_initial_configuration_as_a_pdb_file(valine: Molecule, tmp_path: Path) -> None:
    written = tmp_path / "start.pdb"
    files.show(valine.file, None, written)
    read = read_pdb(written)
    assert read.labels == valine.structure.labels
    np.testing.assert_allclose(read.positions, valine.initial_configuration().numpy(), atol=1e-4)
    with pytest.raises(UserError, match="cannot write"):
        files.show(valine.file, None, tmp_path / "none" / "start.pdb")


def test_what_only_openmm_evaluates_is_said(tmp_path: Path) -> None:
    out = tmp_path / "ala.yaml"
    text, _ = files.new(None, "ACE ALA NME", ["amber99sbildn.xml", "implicit/gbn2.xml"], 300.0, out)
    out.write_text(text)
    (line,) = (line for line in files.show(out, None) if line.startswith("  energy: "))
    assert "only by --engine openmm: the batched force field does not support CustomGBForce" in line


def test_proline_is_built_l_and_trans() -> None:
    """The ring closes and is not in the residue before."""
    structure = Structure(*build_peptide("ACE PRO NME"), "sequence")
    n, c, cb, ca, cd = (structure.index(f"2:{k}") for k in ("N", "C", "CB", "CA", "CD"))
    x = structure.positions
    assert np.dot(x[n] - x[ca], np.cross(x[c] - x[ca], x[cb] - x[ca])) > 0.001  # nm^3; positive for L
    assert np.linalg.norm(x[structure.index("1:C")] - x[cd]) > 0.22 and abs(np.linalg.norm(x[n] - x[cd]) - 0.147) < 0.01


def test_one_amino_acid_needs_a_cap(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give ACE, NME or both"):
        files.new(None, "ALA", FORCES, 300.0, tmp_path / "x.yaml")


def test_a_new_file_without_iupac_names_proposes_torsions(tmp_path: Path) -> None:
    pdb, xml = chain(tmp_path / "a: b.pdb", "CCCCCC")
    out = tmp_path / "new.yaml"
    text, found = files.new(str(pdb), None, (), 300.0, out, str(xml))
    out.write_text(text)
    system = load_molecule(out)()
    assert system.cvs.names == ("C1-C2-C3-C4", "C2-C3-C4-C5") and "# - {name" in text
    assert any("1:C3 - 1:C4 - 1:C5 - 1:C6: 3 wells" in line for line in found)
    assert all(check.passed for check in system.self_check()[:1])


@pytest.mark.parametrize(
    ("pdb", "force_field", "openmm_system", "expected"),
    [
        ("chain.pdb", (), None, "give either --force-field or --openmm-system"),
        ("chain.pdb", ("a.xml",), "chain.xml", "give either --force-field or --openmm-system"),
        (None, (), "chain.xml", "--openmm-system needs the PDB file"),
        ("chain.pdb", (), "none.xml", "cannot be read"),
        ("chain.pdb", (), "chain.pdb", "is no serialised system"),
        ("chain.pdb", (), "short.xml", "4 particles, the PDB file 5 atoms"),
        ("other.pdb", (), "chain.xml", "are the atoms in the same order"),
        ("three.pdb", (), "three.xml", "3 atoms: a torsion, and so a CV, needs four"),
    ],
)
def test_mistakes_with_a_serialised_system(
    pdb: str | None, force_field: tuple[str, ...], openmm_system: str | None, expected: str, tmp_path: Path
) -> None:
    chain(tmp_path / "chain.pdb", "CCCCC")
    chain(tmp_path / "short.pdb", "CCCC")
    chain(tmp_path / "three.pdb", "CCC")
    atoms = {f"C{n}": (1.3 * n, 1.2 * (n % 2), 0.0) for n in range(5)}
    ligand(tmp_path / "other.pdb", atoms, [(0, 2), (2, 1), (1, 3), (3, 4)])
    path = None if pdb is None else str(tmp_path / pdb)
    serialized = None if openmm_system is None else str(tmp_path / openmm_system)
    sequence = "ACE ALA NME" if pdb is None else None
    with pytest.raises(UserError) as caught:
        files.new(path, sequence, force_field, 300.0, tmp_path / "new.yaml", serialized)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_ring_alone_has_no_torsion_to_choose(tmp_path: Path) -> None:
    atoms = {f"C{n}": (1.4 * np.cos(n), 1.4 * np.sin(n), 0.2 * (n % 2)) for n in range(6)}
    pdb = ligand(tmp_path / "ring.pdb", atoms, [(n, (n + 1) % 6) for n in range(6)])
    with pytest.raises(UserError, match="rings cannot be"):
        files.definition_text(read_pdb(pdb), "pdb: ring.pdb", "openmm_system: ring.xml", 300.0)


def hexene(cis: bool) -> BondGraph:
    bonds = [(n, n + 1) for n in range(5)]
    elements, positions = ["C"] * 6, [np.array(x) / 10 for x in HEXENE.values()]
    for atom, count in enumerate((3, 2, 1, 1, 2, 3)):
        for _ in range(count):
            bonds.append((atom, len(elements)))
            elements.append("H")
            positions.append(positions[atom] + 0.1)
    if cis:
        positions[3] = positions[3] + 0.02  # a single bond
    return BondGraph(elements, bonds, np.array(positions))


def test_a_double_bond_is_part_of_the_state_space() -> None:
    graph = hexene(cis=False)
    assert [one.torsion for one in graph.double_bonds] == [(1, 2, 3, 4)]
    assert not graph.rotates(2, 3) and graph.rotates(1, 2)
    assert {t.bond for t in graph.free_torsions} == {(1, 2), (3, 4)}
    longer = hexene(cis=True)
    assert longer.double_bonds == () and longer.rotates(2, 3)


def changed(lines: list[str], change: str) -> str:
    atoms = [line for line in lines if line.startswith(("ATOM", "HETATM"))]
    match change:
        case "cif":
            return "data_x\nloop_\n_atom_site.id\nATOM   1    C C  . VAL A 1\n"
        case "nan":
            atoms[3] = atoms[3][:30] + "     nan" + atoms[3][38:]
        case "insertion":  # two residues with one number
            atoms = [a[:22] + "   2A" + a[27:] if a[17:20] == "NME" else a for a in atoms]
        case "flat":
            atoms = [a[:46] + "   0.000" + a[54:] for a in atoms]
    return "\n".join([*atoms, "END", ""])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("cif", "is an mmCIF file: convert it"),
        ("nan", "a position is not a finite number"),
        ("insertion", "give each residue, in all chains, a number of its own"),
        ("flat", "the stereocentre 2:CA is flat"),
    ],
)
def test_structures_that_would_have_to_be_guessed(change: str, expected: str, tmp_path: Path) -> None:
    pdb, path = tmp_path / "changed.pdb", tmp_path / "my.yaml"
    pdb.write_text(changed(VALINE.read_text().splitlines(), change))
    path.write_text(f"pdb: {pdb}\nforce_field: {FORCE_FIELD}\ncvs: [phi 2]\n")
    with pytest.raises(UserError) as caught:
        load_molecule(path)()
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_force_field_for_openmm_alone_is_refused_before_a_run(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("sequence: ACE GLY NME\nforce_field: [amber14-all.xml, implicit/gbn2.xml]\ncvs: [phi 2]\n")
    with pytest.raises(UserError, match="CustomGBForce.*--engine openmm"):
        load_molecule(path)()
    system = load_molecule(path)(engine="openmm")
    assert system.reduced_energy(system.initial_configuration()[None]).isfinite().all()
    assert files.show(path, None)[0].startswith("sequence ACE GLY NME: 19 atoms")
