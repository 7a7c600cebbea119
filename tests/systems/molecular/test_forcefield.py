"""The batched force field, in C++ and in torch, against OpenMM's Reference platform."""

from __future__ import annotations

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

from cgbench import native
from cgbench.errors import UserError
from cgbench_systems.molecular.forcefield import EAGER_CHUNK, GAS_CONSTANT, TorchForceField
from cgbench_systems.molecular.native_forcefield import NativeForceField
from cgbench_systems.molecular.openmm_engine import OpenMMEngine
from tests.systems.alanine import initial_positions, make_system, make_topology

TEMPERATURE = 300.0


@pytest.fixture(params=["native", "torch"])
def kernel(request, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernel used on CPUs."""
    if request.param == "torch":
        monkeypatch.setenv("CGBENCH_NATIVE", "0")
    elif native.compiler() is None:
        pytest.skip("no C++ compiler")
    assert NativeForceField.serves(torch.zeros(1)) == (request.param == "native")
    return request.param


def compare(system: openmm.System, x: torch.Tensor) -> tuple[float, float]:
    """Largest relative difference in energy and in force over the configurations."""
    energy, gradient = TorchForceField.from_openmm(system, TEMPERATURE).energy_and_gradient(x)
    true_energy, true_gradient = OpenMMEngine(system, TEMPERATURE, "Reference").energy_and_gradient(x)
    in_energy = ((energy - true_energy) / true_energy).abs().max()
    in_force = (gradient - true_gradient).flatten(1).norm(dim=1) / true_gradient.flatten(1).norm(dim=1)
    return float(in_energy), float(in_force.max())


def test_agrees_with_openmm_over_varied_configurations(varied_configurations: torch.Tensor, kernel: str) -> None:
    assert len(varied_configurations) >= 1000
    in_energy, in_force = compare(make_system(), varied_configurations)
    assert in_energy < 1e-6
    assert in_force < 1e-8


def test_every_term_agrees_with_its_force_group(varied_configurations: torch.Tensor) -> None:
    x = varied_configurations[::60]
    system = make_system()
    names = {
        "HarmonicBondForce": "bonds",
        "HarmonicAngleForce": "angles",
        "PeriodicTorsionForce": "torsions",
        "NonbondedForce": "nonbonded",
        "CustomGBForce": "born",
    }
    groups = {}
    for index, force in enumerate(system.getForces()):
        force.setForceGroup(index)
        groups[names["CustomGBForce" if isinstance(force, openmm.CustomGBForce) else type(force).__name__]] = index
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    terms = TorchForceField.from_openmm(system, TEMPERATURE).energy_terms(x)
    assert set(terms) == set(groups)
    for row, configuration in enumerate(x.numpy()):
        context.setPositions(configuration)
        for name, group in groups.items():
            state = context.getState(getEnergy=True, groups={group})
            true = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole) / (GAS_CONSTANT * TEMPERATURE)
            assert float(terms[name][row]) == pytest.approx(true, rel=1e-9, abs=1e-9), name


@pytest.mark.parametrize("model", ["obc1", "obc2", "gbsa", "vacuum"])
def test_solvent_models(model: str, varied_configurations: torch.Tensor, kernel: str) -> None:
    files = ["amber96.xml"] + ([f"implicit/{model}.xml"] if model.startswith("obc") else [])
    system = app.ForceField(*files).createSystem(make_topology(), nonbondedMethod=app.NoCutoff, constraints=None)
    if model == "gbsa":
        force = openmm.GBSAOBCForce()
        random = np.random.default_rng(0)
        nonbonded = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
        for index in range(system.getNumParticles()):
            charge, _, _ = nonbonded.getParticleParameters(index)
            force.addParticle(charge, random.uniform(0.12, 0.2), random.uniform(0.72, 0.9))
        force.setNonbondedMethod(openmm.GBSAOBCForce.NoCutoff)
        system.addForce(force)
    in_energy, in_force = compare(system, varied_configurations[::12])
    assert in_energy < 1e-6
    assert in_force < 1e-8


def random_system(atoms: int, random: np.random.Generator) -> openmm.System:
    """An invented molecule with every supported bonded term, exceptions and phases that are not 0 or pi."""
    system = openmm.System()
    bonds, angles, torsions = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce(), openmm.PeriodicTorsionForce()
    nonbonded = openmm.NonbondedForce()
    for index in range(atoms):
        system.addParticle(12.0)
        nonbonded.addParticle(random.normal(), random.uniform(0.1, 0.3), random.uniform(0.0, 0.5))
        if index >= 1:
            bonds.addBond(index - 1, index, random.uniform(0.1, 0.2), random.uniform(1e4, 3e4))
            nonbonded.addException(index - 1, index, 0.0, 1.0, 0.0)
        if index >= 2:
            angles.addAngle(index - 2, index - 1, index, random.uniform(1.5, 2.5), random.uniform(100, 500))
            nonbonded.addException(index - 2, index, random.normal(), 0.2, 0.1)
        if index >= 3:
            for periodicity in (1, 2, 3, 6):
                torsions.addTorsion(
                    index - 3, index - 2, index - 1, index, periodicity, random.uniform(-3, 3), random.normal()
                )
    for force in (bonds, angles, torsions, nonbonded):
        system.addForce(force)
    return system


@pytest.mark.parametrize("atoms", [2, 3, 4, 9])
def test_other_molecules(atoms: int, kernel: str) -> None:
    random = np.random.default_rng(atoms)
    chain = np.cumsum(random.normal(scale=0.09, size=(40, atoms, 3)) + [0.05, 0.02, 0.0], axis=1)
    in_energy, in_force = compare(random_system(atoms, random), torch.from_numpy(chain))
    assert in_energy < 1e-6
    assert in_force < 1e-8


def test_float32_and_dtype(aldp, varied_configurations: torch.Tensor, kernel: str) -> None:
    x = varied_configurations[:300]
    energy, gradient = aldp.reduced_energy_and_gradient(x.float())
    true, true_gradient = aldp.reduced_energy_and_gradient(x)
    assert energy.dtype == gradient.dtype == torch.float32
    assert float((energy.double() - true).abs().max()) < 0.01  # kT
    assert float((gradient.double() - true_gradient).norm() / true_gradient.norm()) < 1e-4


def test_gradient_is_that_of_the_energy(aldp, varied_configurations: torch.Tensor, generator, kernel: str) -> None:
    x = varied_configurations[::100].clone().requires_grad_()
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(aldp.reduced_energy(x).sum(), x)
    step = 1e-6
    up, down = (aldp.reduced_energy(x.detach() + sign * step * direction) for sign in (1, -1))
    slope = (gradient * direction).flatten(1).sum(1)
    torch.testing.assert_close((up - down) / (2 * step), slope, rtol=1e-5, atol=1e-2)


def test_results_do_not_depend_on_the_batch(aldp, varied_configurations: torch.Tensor, kernel: str) -> None:
    whole, whole_gradient = aldp.reduced_energy_and_gradient(varied_configurations[: EAGER_CHUNK + 3])
    for size in (1, EAGER_CHUNK - 1, EAGER_CHUNK, EAGER_CHUNK + 1):
        energy, gradient = aldp.reduced_energy_and_gradient(varied_configurations[:size])
        torch.testing.assert_close(energy, whole[:size], rtol=1e-12, atol=1e-10)
        torch.testing.assert_close(gradient, whole_gradient[:size], rtol=1e-10, atol=1e-8)
    energy, gradient = aldp.reduced_energy_and_gradient(varied_configurations[:0])
    assert energy.shape == (0,) and gradient.shape == (0, 22, 3)


def test_energy_is_invariant_under_rigid_motion(
    aldp, varied_configurations: torch.Tensor, generator, kernel: str
) -> None:
    x = varied_configurations[:50]
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    energy, gradient = aldp.reduced_energy_and_gradient(x)
    turned, turned_gradient = aldp.reduced_energy_and_gradient(x @ rotation + 0.7)
    torch.testing.assert_close(turned, energy, rtol=1e-11, atol=1e-9)
    torch.testing.assert_close(turned_gradient, gradient @ rotation, rtol=1e-9, atol=1e-6)


def test_compiled_equals_eager(varied_configurations: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CGBENCH_NATIVE", "0")
    force_field = TorchForceField.from_openmm(make_system(), TEMPERATURE)
    x = varied_configurations[:700]
    energy, gradient = force_field.energy_and_gradient(x)
    force_field.compile()
    compiled_energy, compiled_gradient = force_field.energy_and_gradient(x)
    assert force_field._compiled is not None
    torch.testing.assert_close(compiled_energy, energy, rtol=1e-11, atol=1e-9)
    torch.testing.assert_close(compiled_gradient, gradient, rtol=1e-9, atol=1e-6)


def test_other_shapes_are_refused(aldp) -> None:
    for shape in ((22, 3), (5, 21, 3), (5, 22, 4), (5, 66)):
        with pytest.raises(ValueError, match=r"configurations must be \[batch, 22, 3\], not"):
            aldp.reduced_energy_and_gradient(torch.zeros(shape))


def _cutoff(system: openmm.System) -> None:
    next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce)).setNonbondedMethod(
        openmm.NonbondedForce.CutoffNonPeriodic
    )


def _virtual(system: openmm.System) -> None:
    system.setParticleMass(21, 0.0)
    system.setVirtualSite(21, openmm.TwoParticleAverageSite(19, 20, 0.5, 0.5))


UNSUPPORTED = {
    "CustomBondForce": lambda system: system.addForce(openmm.CustomBondForce("r")),
    "CMAPTorsionForce": lambda system: system.addForce(openmm.CMAPTorsionForce()),
    "RBTorsionForce": lambda system: system.addForce(openmm.RBTorsionForce()),
    "CustomExternalForce": lambda system: system.addForce(openmm.CustomExternalForce("x")),
    "with a cutoff": _cutoff,
    "virtual sites": _virtual,
    "two forces of type NonbondedForce": lambda system: system.addForce(openmm.NonbondedForce()),
    "this CustomGBForce": lambda system: _unknown_gb(system),
}


def _unknown_gb(system: openmm.System) -> None:
    index = next(i for i, f in enumerate(system.getForces()) if isinstance(f, openmm.CustomGBForce))
    system.removeForce(index)
    force = openmm.CustomGBForce()
    force.addComputedValue("B", "1", openmm.CustomGBForce.SingleParticle)
    for _ in range(system.getNumParticles()):
        force.addParticle([])
    system.addForce(force)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_forces_are_named(name: str) -> None:
    system = make_system()
    UNSUPPORTED[name](system)
    with pytest.raises(UserError, match=name) as caught:
        TorchForceField.from_openmm(system, TEMPERATURE)
    assert "it supports" in str(caught.value) and "\n" not in str(caught.value)


def test_constraints_are_refused_with_the_way_out() -> None:
    """OpenMM is none: its energy does not contain the constraints either."""
    system = make_system()
    system.addConstraint(0, 1, 0.1)
    with pytest.raises(UserError, match=r"constraints \(1 in this system\) .*: build it with constraints=None"):
        TorchForceField.from_openmm(system, TEMPERATURE)


def test_openmm_engine_names_platforms() -> None:
    with pytest.raises(UserError, match="no platform 'Abacus'.*Reference"):
        OpenMMEngine(make_system(), TEMPERATURE, "Abacus")


def test_openmm_engine_gives_infinity_for_broken_configurations() -> None:
    x = torch.from_numpy(initial_positions())[None].repeat(2, 1, 1)
    x[1, 0, 0] = torch.nan
    energy, _ = OpenMMEngine(make_system(), TEMPERATURE, "Reference").energy_and_gradient(x)
    assert energy[0].isfinite() and energy[1] == torch.inf
