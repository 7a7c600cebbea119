"""Alanine dipeptide: the molecule, its state space and its reference."""

from __future__ import annotations

import json
import re
import shutil

import mdtraj
import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

from cgbench.contracts.pmf import basin_mask
from cgbench.errors import UserError
from cgbench.scoring.reference_files import load_reference
from cgbench_systems.aldp import REFERENCE_FOLDER, AlanineDipeptide
from tests.systems.alanine import initial_positions, make_system, make_topology


def minimise(positions: np.ndarray) -> np.ndarray:
    """Return the minimum that OpenMM finds, to a root-mean-square force of 1e-4 kJ/(mol nm)."""
    integrator = openmm.VerletIntegrator(0.001)
    context = openmm.Context(make_system(), integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions)
    openmm.LocalEnergyMinimizer.minimize(context, 1e-4, 0)
    return np.asarray(context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer))


def test_initial_configuration_is_a_minimum(aldp) -> None:
    x = aldp.initial_configuration()[None]
    energy, gradient = aldp.reduced_energy_and_gradient(x)
    assert float(gradient.abs().max()) < 0.05  # kT/nm
    lower, _ = aldp.reduced_energy_and_gradient(torch.from_numpy(minimise(initial_positions()))[None])
    assert float(energy - lower) < 1e-6


def test_collective_variables_are_mdtrajs_phi_and_psi(aldp, varied_configurations) -> None:
    trajectory = mdtraj.Trajectory(varied_configurations.numpy(), mdtraj.Topology.from_openmm(make_topology()))
    (phi_atoms,), phi = mdtraj.compute_phi(trajectory, periodic=False)
    (psi_atoms,), psi = mdtraj.compute_psi(trajectory, periodic=False)
    assert phi_atoms.tolist() == [4, 6, 8, 14] and psi_atoms.tolist() == [6, 8, 14, 16]
    ours = aldp.collective_variables(varied_configurations).numpy()
    difference = np.angle(np.exp(1j * (ours - np.hstack([phi, psi]))))
    assert np.abs(difference).max() < 1e-3
    s, _, _ = aldp.coordinates.to_internal(varied_configurations)
    np.testing.assert_allclose(s.numpy(), ours, atol=1e-12)


def test_system_is_what_it_says() -> None:
    system = make_system()
    assert system.getNumParticles() == 22 and system.getNumConstraints() == 0
    kinds = {type(force).__name__ for force in system.getForces()}
    assert {"HarmonicBondForce", "HarmonicAngleForce", "PeriodicTorsionForce", "NonbondedForce"} < kinds
    assert any(isinstance(force, openmm.CustomGBForce) for force in system.getForces())


def test_the_stored_system_is_openmms_force_field() -> None:
    """Term by term; only the order of the bonds is another."""
    field = app.ForceField("amber96.xml", "implicit/obc1.xml")
    built = field.createSystem(make_topology(), nonbondedMethod=app.NoCutoff, constraints=None, removeCMMotion=False)
    pair = re.compile(r'p1="(\d+)" p2="(\d+)"/>')

    def terms(system: openmm.System) -> list[str]:
        lines = openmm.XmlSerializer.serialize(system).splitlines()
        bonds = [line for line in lines if "<Bond " in line]
        ordered = (pair.sub(lambda m: " ".join(sorted(m.groups(), key=int)), bond) for bond in bonds)
        return [line for line in lines if "<Bond " not in line] + sorted(ordered)

    assert terms(make_system()) == terms(built)


def test_mirror_image_and_cis_bonds_are_outside(aldp, varied_configurations) -> None:
    x = aldp.initial_configuration()[None]
    assert bool(aldp.coordinates.in_state_space(x).all())
    mirrored = x * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
    assert not bool(aldp.coordinates.in_state_space(mirrored).any())
    literature = aldp.coordinate_sets["literature"]
    s, y, _ = literature.to_internal(x)
    y[0, literature.names.index("dihedral 1:CH3-1:C-2:N-2:CA")] = 0.0
    cis, _ = literature.to_cartesian(s, y)
    assert not bool(aldp.coordinates.in_state_space(cis).any())


def test_openmm_engine_gives_the_same_energies(aldp, varied_configurations) -> None:
    x = varied_configurations[::100]
    other = AlanineDipeptide(engine="openmm")
    torch.testing.assert_close(other.reduced_energy(x), aldp.reduced_energy(x), rtol=1e-4, atol=1e-3)


def test_unknown_engine() -> None:
    with pytest.raises(UserError, match="no engine 'gromacs': choose from .*openmm"):
        AlanineDipeptide(engine="gromacs")


def test_self_check_passes(aldp) -> None:
    assert all(check.passed for check in aldp.self_check())


def test_reference_looks_like_alanine_dipeptide(aldp) -> None:
    reference = aldp.reference()
    phi, psi = (np.degrees(reference.pmf.centers(axis)) for axis in range(2))
    positive = reference.pmf.population(np.broadcast_to((phi > 0)[:, None], (100, 100)))
    assert 0.002 < positive < 0.004
    deepest = np.unravel_index(reference.pmf.probability.argmax(), (100, 100))
    assert -170 < phi[deepest[0]] < -50 and 120 < psi[deepest[1]] < 180
    masks = [basin_mask(aldp.cvs, basin.contains) for basin in aldp.basins]
    assert np.all(sum(mask.astype(int) for mask in masks) == 1)  # the basins divide the torus
    assert reference.noise_floor < 1e-3
    assert np.all(reference.standard_error >= 0)


def test_reference_has_no_seam(aldp) -> None:
    """The PMF is as smooth across +-180 degrees as elsewhere."""
    energy = aldp.reference().pmf.free_energy
    for axis in range(2):
        steps = np.abs(energy - np.roll(energy, 1, axis=axis))
        steps = np.where((energy < 8) & (np.roll(energy, 1, axis=axis) < 8), steps, np.nan)
        inner = steps[1:] if axis == 0 else steps[:, 1:]
        seam = steps[0] if axis == 0 else steps[:, 0]
        assert np.nanmax(seam) < 1.2 * np.nanmax(inner)


def test_damaged_reference_is_refused(tmp_path, aldp) -> None:
    for name in ("reference.npz", "reference.json"):
        shutil.copy(REFERENCE_FOLDER / name, tmp_path / name)
    content = bytearray((tmp_path / "reference.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "reference.npz").write_bytes(content)
    with pytest.raises(UserError, match="sha256"):
        load_reference(tmp_path, aldp.cvs)
    (tmp_path / "reference.npz").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        load_reference(tmp_path, aldp.cvs)


def test_reference_says_how_it_was_made() -> None:
    facts = json.loads((REFERENCE_FOLDER / "reference.json").read_text())
    for key in (
        "source",
        "sha256",
        "noise_floor",
        "force_field",
        "production_steps",
        "dynamics",
        "seed",
        "versions",
        "date",
    ):
        assert key in facts
