"""The molecules of the suite and those held out: what they are, their energies and their certified references."""

from __future__ import annotations

import hashlib
import re
from importlib.metadata import entry_points
from typing import Any

import mdtraj
import numpy as np
import openmm
import pytest
import torch

from cgbench.cli.main import main
from cgbench.contracts.pmf import basin_mask
from cgbench.scoring.divergences import forward_kld
from cgbench_systems import held_out, suite
from cgbench_systems.molecular.openmm_engine import OpenMMEngine
from cgbench_systems.molecular.reference.side_chains.torsions import SideTorsions

# of molecules with one map; `test_several_maps` has the others
ATOMS = {"gly": 19, "val": 28, "ser": 23, "phe": 32, "leu": 31, "thr": 26, "asn": 26, "cys": 23, "asp": 24, "tyr": 33}
MEMBERS = (suite.glycine, suite.valine, suite.serine, suite.phenylalanine)
HELD_OUT = tuple(getattr(held_out, name) for name in held_out.__all__)
DIPEPTIDES = {cls.name: cls for cls in (*MEMBERS, *HELD_OUT)}
ALL = DIPEPTIDES | {cls.name: cls for cls in (suite.valine_chi, suite.tetrapeptide)}

# a molecule is registered once its reference is certified
REGISTERED = sorted(set(ALL) & {entry.name for entry in entry_points(group="cgbench.systems")})


@pytest.fixture(scope="module", params=ALL)
def molecule(request: pytest.FixtureRequest) -> Any:
    return ALL[request.param]()


@pytest.fixture(scope="module", params=DIPEPTIDES)
def dipeptide(request: pytest.FixtureRequest) -> Any:
    return DIPEPTIDES[request.param]()


@pytest.fixture(scope="module", params=[name for name in REGISTERED if name in DIPEPTIDES])
def certified(request: pytest.FixtureRequest) -> Any:
    return DIPEPTIDES[request.param]()


def test_every_molecule_with_a_reference_is_registered() -> None:
    """And the other way round: a registered molecule without a certified reference could not be scored."""
    assert [name for name in sorted(ALL) if ALL[name]().reference_folder.exists()] == REGISTERED
    assert {"gly", "val_chi"} <= set(REGISTERED)


def test_it_is_what_it_says(dipeptide: Any) -> None:
    molecule = dipeptide
    assert len(molecule.masses) == ATOMS[molecule.name] and molecule.temperature == 300.0
    system = molecule.openmm_system()
    assert system.getNumConstraints() == 0
    (solvent,) = (force for force in system.getForces() if isinstance(force, openmm.CustomGBForce))
    assert any("0.8*psi" in solvent.getComputedValueParameters(i)[1] for i in range(solvent.getNumComputedValues()))
    assert [basin.name for basin in molecule.basins][:2] == ["C5/PPII", "alphaR"]
    assert molecule.basins[-1].name == "phi>0" and molecule.version == "1"
    assert molecule.__class__.__module__ == "cgbench_systems.molecule.registered"


def test_it_is_explained_by_its_name(molecule: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """``cgbench system show NAME`` speaks of residues and atoms, never of numbers of coordinates."""
    assert main(["system", "show", molecule.name]) == 0
    free = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  free:")]
    assert len(free) == int(molecule.coordinates.periodic.sum())
    labels = set(molecule.structure.labels)
    for line in free:
        named = re.fullmatch(r"free: chi\d \d+", line)
        atoms = re.findall(r"\d+:\w+", line)
        assert named or (len(atoms) == 4 and labels.issuperset(atoms)), line


def test_self_check_passes(molecule: Any) -> None:
    for check in molecule.self_check():
        assert check.passed, check


def test_energies_are_those_of_openmm(molecule: Any) -> None:
    generator = torch.Generator().manual_seed(2)
    x = molecule.initial_configuration()[None].repeat(5, 1, 1)
    x = x + 0.01 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    expected, _ = OpenMMEngine(molecule.openmm_system(), 300.0, "Reference").energy_and_gradient(x)
    torch.testing.assert_close(molecule.reduced_energy(x), expected, rtol=1e-6, atol=0.0)


def test_collective_variables_are_mdtrajs(dipeptide: Any) -> None:
    molecule = dipeptide
    x = SideTorsions(molecule).starts_at_minimum(6)
    trajectory = mdtraj.Trajectory(x.numpy(), mdtraj.Topology.from_openmm(molecule.topology()))
    expected = np.hstack(
        [compute(trajectory, periodic=False)[1] for compute in (mdtraj.compute_phi, mdtraj.compute_psi)]
    )
    found = molecule.collective_variables(x).numpy()
    assert np.abs(np.angle(np.exp(1j * (found - expected)))).max() < 1e-3


def test_the_reference_is_certified(certified: Any) -> None:
    molecule = certified
    reference = molecule.reference()
    content = (molecule.reference_folder / "reference.npz").read_bytes()
    assert hashlib.sha256(content).hexdigest() == reference.sha256
    assert 0 < reference.noise_floor <= 2e-4
    details = reference.details
    assert details["system_version"] == molecule.version and details["temperature_K"] == 300.0
    for basin in molecule.basins:
        certified = details["basins"][basin.name]
        assert certified["free_energy_standard_error_kT"] < 0.03
        population = reference.pmf.population(basin_mask(molecule.cvs, basin.contains))
        assert population == pytest.approx(certified["population"], rel=0.02)
    routes = {check["name"].partition(",")[0] for check in details["checks"]}
    assert routes >= {"umbrella + MBAR", "unbiased from weighted starts", "OpenMM dynamics"}
    assert all(check["passed"] for check in details["checks"])


@pytest.mark.parametrize("name", REGISTERED)
def test_energies_of_the_certificate_are_reproduced(name: str) -> None:
    """The certificate is of the molecule as it is now: a new force field, structure or temperature shows."""
    molecule = ALL[name]()
    points = molecule.reference().details["fixed_configurations"]
    s = torch.tensor([point["cvs"] for point in points], dtype=torch.float64)
    y = torch.zeros(len(s), len(molecule.coordinates.names), dtype=torch.float64)
    x, _ = molecule.coordinates.to_cartesian(s, y)
    expected = [point["reduced_energy"] for point in points]
    np.testing.assert_allclose(molecule.reduced_energy(x).numpy(), expected, atol=1e-3)


def test_side_chains_have_mixed(certified: Any) -> None:
    molecule = certified
    names = SideTorsions(molecule).names
    facts = molecule.reference().details.get("side_torsions", [])
    assert [entry["torsion"] for entry in facts] == names
    for entry in facts:
        assert sum(entry["populations"]) == pytest.approx(1.0)
        assert len(entry["populations"]) == 1 or entry["transitions_per_walker"] > 4


def test_the_pmf_of_glycine_is_symmetric_within_its_noise() -> None:
    """Glycine has no stereocentre: (phi, psi) and (-phi, -psi) are equally probable. Nothing was symmetrised."""
    reference = suite.glycine().reference()
    p, error = reference.pmf.probability, reference.standard_error
    assert error is not None
    mirrored, its_error = p[::-1, ::-1], error[::-1, ::-1]
    # p and its mirror image share their noise: the divergence between them is twice that of the noise
    assert 0 < forward_kld(p, mirrored) < 4 * reference.noise_floor
    populated = p > 1e-6
    z = (p - mirrored)[populated] / np.hypot(error, its_error)[populated]
    assert 0.5 < float(np.sqrt(np.mean(z**2))) < 1.5
    basins = reference.details["basins"]
    for name, mirror in (("C5/PPII", "C5/PPII mirrored"), ("alphaR", "alphaL")):
        one, other = basins[name], basins[mirror]
        difference = one["population"] - other["population"]
        assert abs(difference) < 4 * np.hypot(one["population_standard_error"], other["population_standard_error"])
