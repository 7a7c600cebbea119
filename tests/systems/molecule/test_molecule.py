"""Molecules from files: energies, state space, and mistakes in one line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch

from cgbench.errors import UserError
from cgbench_systems.molecule import Molecule, load_molecule
from cgbench_systems.molecule.sequence import build_peptide
from cgbench_systems.molecule.structure import Structure, create_system, read_pdb
from tests.systems.molecule.conftest import TETRA, VALINE

METHYLS = [[f"CG{n}", f"HG{n}1", f"HG{n}2", f"HG{n}3"] for n in (1, 2)]


@pytest.mark.parametrize("name", ["valine", "tetra"])
def test_self_check_passes(name: str, request: pytest.FixtureRequest) -> None:
    for check in request.getfixturevalue(name).self_check():
        assert check.passed, check


def test_the_tetrapeptide_has_the_energy_of_the_literature(tetra: Molecule) -> None:
    """-0.5412641773899 kT at 300 K for the file's configuration, without constraints (OpenMM's Reference platform)."""
    positions = torch.from_numpy(tetra.structure.positions)[None]
    assert float(tetra.reduced_energy(positions)) == pytest.approx(-0.5412641773899, abs=1e-8)


def test_the_start_is_a_minimum_in_the_state_space(valine: Molecule) -> None:
    x = valine.initial_configuration()[None]
    energy, gradient = valine.reduced_energy_and_gradient(x)
    assert float(gradient.abs().max()) < 0.01 and float(energy) < float(
        valine.reduced_energy(torch.from_numpy(valine.structure.positions)[None])
    )
    assert bool(valine.coordinates.in_state_space(x))


def test_the_mirror_image_and_a_cis_amide_are_outside(valine: Molecule) -> None:
    x = valine.initial_configuration()[None]
    assert not bool(valine.coordinates.in_state_space(-x))
    (omega, trans), *_ = valine.coordinates.amides
    assert trans
    s, y, _ = valine.coordinates.to_internal(x)
    position = valine.coordinates.names.index(next(n for n in valine.coordinates.names if n.startswith("dihedral 0-4")))
    assert omega[:2] == (0, 4)
    turned = y.clone()
    turned[0, position] += torch.pi / 0.1
    assert not bool(valine.coordinates.in_state_space(valine.coordinates.to_cartesian(s, turned)[0]))


def test_a_configuration_that_is_not_finite_is_outside(define: Callable[..., Path]) -> None:
    """Also for a molecule that has nothing else to keep: here all bonds that could be are CVs or have no centre."""
    coordinates = copy.copy(load_molecule(define())().coordinates)
    coordinates.stereocentres, coordinates.amides = (), ()
    x = torch.zeros(3, 28, 3, dtype=torch.float64)
    x[1, 4, 2], x[2, 0, 0] = torch.nan, torch.inf
    assert coordinates.in_state_space(x).tolist() == [True, False, False]


def test_a_cv_that_ends_in_one_of_two_equal_atoms_tells_them_apart(define: Callable[..., Path]) -> None:
    """With the names of the methyl groups exchanged, chi1 has another value in the same configuration of valine."""
    for cvs, inside in (("[phi 2, psi 2]", True), ("[phi 2, psi 2, chi1 2]", False)):
        molecule = load_molecule(define(cvs=cvs, more="maps: [[phi 2, psi 2], [chi1 2]]" if not inside else ""))()
        x = molecule.initial_configuration()[None]
        first, second = ([molecule.structure.index(f"2:{name}") for name in names] for names in METHYLS)
        exchanged = x.clone()
        exchanged[:, first + second] = x[:, second + first]
        torch.testing.assert_close(molecule.reduced_energy(exchanged), molecule.reduced_energy(x))
        assert bool(molecule.coordinates.in_state_space(x))
        assert bool(molecule.coordinates.in_state_space(exchanged)) == inside


def test_the_version_follows_files_that_a_force_field_includes(define: Callable[..., Path]) -> None:
    path = define()
    outer, inner = path.with_name("outer.xml"), path.with_name("inner.xml")
    path.write_text(path.read_text().replace("amber96.xml", "outer.xml"))
    outer.write_text('<ForceField>\n <Include file="inner.xml"/>\n</ForceField>\n')
    inner.write_text("<ForceField/>")
    before = load_molecule(path).version
    assert load_molecule(path).version == before
    inner.write_text("<ForceField> </ForceField>")
    assert load_molecule(path).version != before
    outer.write_text('<ForceField>\n <Include file="outer.xml"/>\n</ForceField>\n')  # a loop ends
    assert load_molecule(path).version != before


def test_openmm_sees_the_same_torsions(valine: Molecule) -> None:
    model = valine.openmm_model()
    x = valine.initial_configuration()
    for force, value in zip(model.collective_variables, valine.collective_variables(x[None])[0], strict=True):
        force.setForceGroup(7)
        system = openmm.System()
        for mass in valine.masses:
            system.addParticle(float(mass))
        system.addForce(force)
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
        context.setPositions(x.numpy())
        assert context.getState(getEnergy=True).getPotentialEnergy()._value == pytest.approx(float(value), abs=1e-9)


def test_basins_go_across_180_degrees(define: Callable[..., Path]) -> None:
    system = load_molecule(define(more="basins: {b: {phi 2: [150, -150]}}"))()
    columns = torch.tensor([170.0, -170.0, 0.0]).deg2rad().numpy()
    assert system.basins[0].contains([columns, 0 * columns]).tolist() == [True, True, False]


def test_the_version_follows_every_setting(define: Callable[..., Path]) -> None:
    first = load_molecule(define())
    assert first.name == "my" and load_molecule(define()).version == first.version
    assert load_molecule(define(more="temperature: 310")).version != first.version
    assert load_molecule(define(cvs="[phi 2]")).version != first.version


def test_a_peptide_from_its_sequence() -> None:
    topology, positions = build_peptide("ACE SER NME")
    structure = Structure(topology, positions, "sequence")
    system = create_system(structure, ["amber96.xml", "implicit/obc1.xml"], Path())
    assert system.getNumParticles() == len(positions) == 23
    assert [structure.labels[c.atom] for c in structure.graph.stereocentres] == ["2:CA"]
    assert len(structure.graph.amide_bonds) == 2


@pytest.mark.parametrize(
    ("cvs", "more", "expected"),
    [
        ("[phi 3, psi 3]", "", "has no torsion 'phi 3': choose from chi1 2, phi 2, psi 2"),
        ("[phi 2, psi 2, chi1 2]", "", "no map holds chi1 2: give maps"),
        ("[phi 2, psi 2]", "maps: [[phi 2, psi 3]]", "a map holds 'psi 3': name some of the cvs, phi 2, psi 2"),
        ("[phi 2, psi 2]", "maps: [[phi 2]]", "no map holds psi 2"),
        ("[phi 2, psi 2]", "maps: [[phi 2, phi 2, psi 2]]", "holds a collective variable twice"),
        ("[phi 2, psi 2]", "maps: [[phi 2], [psi 2], [phi 2]]", "two maps are the same"),
        ("[phi 2, psi 2]", "maps: [[a, b, c, d]]", "at most 3 collective variables can be scored on one grid, not 4"),
        ("[phi 2, psi 2]", "bins: 3", "bins: "),
        ("[phi 2, psi 2]", "states: {a: {phi 2: [0, 120]}, b: {phi 2: [90, 200]}}", "'a' and 'b' overlap"),
        ("[phi 2, psi 2]", "states: {a: {phi 2: [0, 120]}, b: {psi 2: [0, 10]}}", "'a' and 'b' overlap"),
        ("[phi 2, psi 2]", "states: {a: {chi1 2: [0, 120]}}", "state 'a' restricts 'chi1 2'"),
        (
            "[phi 2, psi 2, chi1 2]",
            "maps: [[phi 2, psi 2], [chi1 2]]\nbasins: {a: {phi 2: [0, 120], chi1 2: [0, 120]}}",
            "which no map holds together: make it one of states",
        ),
        ("[phi 2, psi 2]", "basins: {a: {phi 2: [0, 90]}}\nstates: {a: {psi 2: [0, 90]}}", "have the name 'a'"),
        ("[phi 2, psi 2, chi1 2]", "maps: [[phi 2, psi 2, chi1 2]]\nbins: 101", "bins must be at most 100 where a map"),
        ("[phi 2, psi 2]", "basins: {a: {phi 2: [0, 0.1]}}", "no bin of 3.6 degrees has its centre in basin 'a'"),
        ("[]", "", "cvs:"),
        ("[phi 2, phi 2]", "", "two collective variables have the same name"),
        ("[phi 2]", "temperature: 300 K", "temperature: "),
        ("[phi 2]", "temperature: -3", "temperature: "),
        ("[phi 2]", "colour: red", "unknown key: choose from"),
        ("[phi 2]", "basins: {a: {psi 2: [0, 1]}}", "basin 'a' restricts 'psi 2'"),
        ("[phi 2]", "sequence: ACE VAL NME", "either pdb"),
        ("[{name: x, dihedral: ['2:N', '2:CA', '2:CB', '2:XX']}]", "", "has no atom '2:XX': choose from"),
        ("[{name: x, dihedral: ['2:N', '2:CA']}]", "", "cvs.0.dihedral"),
    ],
)
def test_mistakes_in_the_file(cvs: str, more: str, expected: str, define: Callable[..., Path]) -> None:
    with pytest.raises(UserError) as caught:
        load_molecule(define(cvs=cvs, more=more))()
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_misspelt_key_is_named_and_not_the_missing_one(define: Callable[..., Path]) -> None:
    path = define()
    path.write_text(path.read_text().replace("cvs:", "cv:"))
    with pytest.raises(UserError, match=r"line 3, .*cv: unknown key: choose from"):
        load_molecule(path)


def test_a_force_field_with_two_residues_of_the_same_atoms(tmp_path: Path) -> None:
    structure = Structure(*build_peptide("ACE ALA NME"), "sequence ACE ALA NME")
    with pytest.raises(UserError, match="choose one by residueTemplates") as caught:
        create_system(structure, ["charmm36.xml"], tmp_path)
    assert "\n" not in str(caught.value)


def changed(text: str, change: str) -> str:
    lines = text.splitlines()
    atoms = [number for number, line in enumerate(lines) if line.startswith(("ATOM", "HETATM"))]
    match change:
        case "hydrogen":
            del lines[next(n for n in atoms if lines[n][12:16].strip() == "HA")]
        case "alternate":
            lines[atoms[3]] = lines[atoms[3]][:16] + "A" + lines[atoms[3]][17:]
        case "models":
            lines = ["MODEL        1", *lines, "ENDMDL", "MODEL        2", *lines, "ENDMDL"]
        case "water":
            lines.insert(atoms[-1] + 1, lines[atoms[-1]].replace("H3  NME", "O   HOH"))
        case "name":
            lines[atoms[8]] = lines[atoms[8]].replace(" CA  VAL", " XQ  VAL")
        case "residue":
            lines = [line.replace("VAL", "XYZ") for line in lines]
        case "twice":
            lines.insert(atoms[8], lines[atoms[8]])
        case "empty":
            lines = ["REMARK nothing here"]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("hydrogen", "residue 2 (VAL). The set of heavy atoms matches VAL"),
        ("alternate", "alternate locations"),
        ("models", "2 models"),
        ("water", "water"),
        ("name", "2:XQ"),
        ("residue", "XYZ"),
        ("twice", "atoms named"),
        ("empty", "no atoms"),
    ],
)
def test_mistakes_in_the_structure(change: str, expected: str, define: Callable[..., Path], tmp_path: Path) -> None:
    pdb = tmp_path / "changed.pdb"
    pdb.write_text(changed(VALINE.read_text(), change))
    with pytest.raises(UserError) as caught:
        load_molecule(define(pdb=pdb))()
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_and_an_unknown_force_field(define: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        load_molecule(define(pdb=tmp_path / "none.pdb"))()
    path = define()
    path.write_text(path.read_text().replace("amber96.xml", "amber1066.xml"))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_molecule(path)()


@pytest.mark.parametrize("sequence", ["", "ACE NME", "ALA XYZ", "ALA ACE ALA"])
def test_mistakes_in_a_sequence(sequence: str) -> None:
    with pytest.raises(UserError, match="sequence: "):
        build_peptide(sequence)


def test_the_tetrapeptide_is_read_in_the_order_of_the_file() -> None:
    structure = read_pdb(TETRA)
    assert structure.labels[8] == "2:CA" and structure.index("3:CA") == 18 and len(structure.labels) == 42


def test_maps_states_and_bins_of_a_file(define: Callable[..., Path]) -> None:
    more = "maps: [[phi 2, psi 2], [phi 2, chi1 2]]\nstates: {t: {chi1 2: [120, -120]}, g: {chi1 2: [0, 120]}}"
    system = load_molecule(define(cvs="[phi 2, psi 2, chi1 2]", more=more))()
    assert system.maps == ((0, 1), (0, 2)) and system.cvs.bins == (100, 100, 100)
    s = np.radians([[0.0, 0.0, 170.0], [0.0, 0.0, -130.0], [0.0, 0.0, 60.0], [0.0, 0.0, -60.0]])
    assert system.states is not None and system.states.assign(s).tolist() == [0, 0, 1, -1]
    third = load_molecule(define(cvs="[phi 2, psi 2, chi1 2]", more="maps: [[phi 2, psi 2, chi1 2]]"))()
    assert third.cvs.bins == (36, 36, 36) and third.maps == ((0, 1, 2),)
    basin = "maps: [[phi 2], [psi 2, chi1 2]]\nbasins: {a: {chi1 2: [0, 120]}}"
    placed = load_molecule(define(cvs="[phi 2, psi 2, chi1 2]", more=basin))()
    assert placed.basins[0].map == 1
    assert placed.basins[0].contains([np.zeros(2), np.radians([60.0, -60.0])]).tolist() == [True, False]


def test_halves_of_each_cv_are_the_default_basins(define: Callable[..., Path]) -> None:
    two = load_molecule(define())()
    assert [basin.name for basin in two.basins] == ["phi 2<0", "phi 2>0", "psi 2<0", "psi 2>0"]
    assert two.basins[1].contains([np.array([-1.0, 1.0]), np.zeros(2)]).tolist() == [False, True]
    assert load_molecule(define(more="states: {a: {phi 2: [0, 120]}}"))().basins == ()
