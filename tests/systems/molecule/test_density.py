"""What is no density of the positions alone is refused; hydrogens that the energy tells apart are not folded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from openmm import unit

from cgbench.contracts.coordinates import free_torsions
from cgbench.errors import UserError
from cgbench_systems.molecule import Molecule, load_molecule
from cgbench_systems.molecule.structure import create_system, read_pdb
from tests.systems.molecule.conftest import VALINE

Change = Callable[[openmm.System], Any]


def nonbonded(system: openmm.System) -> openmm.NonbondedForce:
    return next(one for one in system.getForces() if isinstance(one, openmm.NonbondedForce))


def restrained(system: openmm.System) -> None:
    force = openmm.CustomExternalForce("100*x^2")
    force.addParticle(4, [])
    system.addForce(force)


def boxed(system: openmm.System) -> None:
    """A periodic box, without the solvent model, which has no boxes."""
    system.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*(3.0 * (i == j) for j in range(3))) for i in range(3)))
    solvent = next(k for k, one in enumerate(system.getForces()) if isinstance(one, openmm.CustomGBForce))
    system.removeForce(solvent)
    nonbonded(system).setNonbondedMethod(openmm.NonbondedForce.PME)


def charged(system: openmm.System) -> None:
    """Shift charge between two hydrogens of the first methyl group."""
    for atom, shift in ((1, 0.03), (2, -0.03)):
        charge, *rest = nonbonded(system).getParticleParameters(atom)
        nonbonded(system).setParticleParameters(atom, charge + shift * unit.elementary_charge, *rest)


@pytest.fixture
def written(tmp_path: Path, define: Callable[..., Path], valine: Molecule) -> Callable[..., Path]:
    """Write a molecule's file with a changed system of OpenMM, and with a start that needs no minimisation."""

    def write(change: Change, more: str = "") -> Path:
        system = create_system(read_pdb(VALINE), ["amber96.xml", "implicit/obc1.xml"], tmp_path)
        change(system)
        (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
        np.savetxt(tmp_path / "start.txt", valine.initial_configuration().numpy())
        path = define(more=f"positions: start.txt\n{more}")
        path.write_text(
            path.read_text().replace("force_field: [amber96.xml, implicit/obc1.xml]", "openmm_system: system.xml")
        )
        return path

    return write


def narrow(system: openmm.System) -> None:
    """A box that is smaller than twice the cutoff, which OpenMM refuses."""
    boxed(system)
    nonbonded(system).setCutoffDistance(2.0)


REFUSED: dict[str, tuple[Change, str]] = {
    "constraint": (lambda s: s.addConstraint(0, 1, 0.1), "has 1 constraints, which the energy of a configuration"),
    "mass": (lambda s: s.setParticleMass(3, 0.0), "particle 3 (from 0) has mass 0 dalton"),
    "thermostat": (lambda s: s.addForce(openmm.AndersenThermostat(400.0, 1.0)), "has a AndersenThermostat"),
    "barostat": (lambda s: s.addForce(openmm.MonteCarloBarostat(1.0, 300.0)), "has a MonteCarloBarostat"),
    "restraint": (restrained, "when the whole molecule is turned and shifted"),
    "narrow box": (narrow, "OpenMM cannot use the system: "),
    "box": (boxed, "when the whole molecule is turned and shifted"),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_density_is_refused(change: Change, words: str, written: Callable[..., Path]) -> None:
    with pytest.raises(UserError) as caught:
        load_molecule(written(change))(engine="openmm")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_same_system_as_a_file_is_accepted(written: Callable[..., Path], valine: Molecule) -> None:
    for engine in ("torch", "openmm"):
        found = load_molecule(written(lambda system: None))(engine=engine)
        assert found.coordinates.symmetry_number == valine.coordinates.symmetry_number == 3**4
        assert len(free_torsions(found.coordinates)) == len(free_torsions(valine.coordinates))


def test_hydrogens_of_different_charge_turn_freely(written: Callable[..., Path], valine: Molecule) -> None:
    """Three configurations with different energies must have different coordinates."""
    molecule = load_molecule(written(charged))()
    assert molecule.structure.graph.neighbours[0][:3] == [1, 2, 3] and molecule.structure.unequal == {0}
    assert molecule.coordinates.symmetry_number == 3**3
    assert len(free_torsions(molecule.coordinates)) == len(free_torsions(valine.coordinates)) + 1
    noise = torch.randn(molecule.initial_configuration().shape, generator=torch.Generator().manual_seed(1))
    x = (molecule.initial_configuration() + 0.003 * noise).repeat(3, 1, 1)
    x[1, [1, 2, 3]], x[2, [1, 2, 3]] = x[0, [2, 3, 1]], x[0, [3, 1, 2]]
    s, y, _ = molecule.coordinates.to_internal(x)
    energy = molecule.reduced_energy(x)
    assert float((energy[1:] - energy[0]).abs().min()) > 0.01
    back = molecule.reduced_energy(molecule.coordinates.to_cartesian(s, y)[0])
    torch.testing.assert_close(back, energy, rtol=0, atol=1e-8)
    assert all(check.passed for check in molecule.self_check())


def test_a_heavy_hydrogen_is_not_equal(written: Callable[..., Path]) -> None:
    molecule = load_molecule(written(lambda system: system.setParticleMass(1, 2.014)))()
    assert molecule.structure.unequal == {0}


def test_a_given_rotor_of_such_hydrogens_is_refused(written: Callable[..., Path], valine: Molecule) -> None:
    coordinates, labels = valine.coordinates, valine.structure.labels
    rows = [[labels[atom] for atom in row] for row in coordinates.rows]
    rotors = [[labels[atom] for atom in (one.first, *one.others)] for one in coordinates.rotors]
    start = [labels[atom] for atom in coordinates.reference_atoms]
    more = f"coordinates: {{default: {{start: {start}, rows: {rows}, rotors: {rotors}}}}}"
    with pytest.raises(UserError, match="the energy tells the three hydrogens of rotor 1:H"):
        load_molecule(written(charged, more))()
