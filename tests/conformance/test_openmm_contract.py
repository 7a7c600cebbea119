"""The check of systems compares OpenMM's model with the system, and names the likely mistake."""

from __future__ import annotations

import copy
import re
from typing import Any

import openmm
import pytest
import torch
from openmm import app

from cgbench.conformance.failures import Failure
from cgbench.conformance.openmm_contract import check_openmm
from cgbench.conformance.system_contract import _check_cvs, _check_minimum, _perturbed
from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.system import OpenMMModel
from cgbench_systems.aldp import AlanineDipeptide
from cgbench_systems.molecular.forcefield import GAS_CONSTANT
from tests.systems.alanine import make_system, make_topology

SYSTEM = make_system()
TORSIONS = AlanineDipeptide().torsions
MASSES = torch.arange(1.0, 23.0, dtype=torch.float64)
KT = GAS_CONSTANT * 300.0


class Alanine(AlanineDipeptide):
    """Alanine dipeptide, whose force field is read once for all tests."""

    def openmm_system(self) -> openmm.System:
        return copy.deepcopy(SYSTEM)


class Scaled(Alanine):
    """Energies times a factor, plus a constant."""

    factor, constant = 1.0, 0.0

    def reduced_energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        energy, gradient = super().reduced_energy_and_gradient(x)
        return self.factor * energy + self.constant, self.factor * gradient


class KilojoulePerMole(Scaled):
    factor = KT


class KilocaloriePerMole(Scaled):
    factor = KT / 4.184


class NotANumber(Alanine):
    """The gradient of one atom is NaN in one configuration."""

    def reduced_energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        energy, gradient = super().reduced_energy_and_gradient(x)
        gradient[-1, 3] = torch.nan
        return energy, gradient


class OtherTemperature(Scaled):
    factor = 300.0 / 310.0


class WrongSign(Scaled):
    factor = -1.0


class Offset(Scaled):
    constant = 2.0


class Angstrom(Alanine):
    """Positions in angstrom, also in kJ/mol."""

    factor = 1.0

    def initial_configuration(self) -> torch.Tensor:
        return 10.0 * super().initial_configuration()

    def reduced_energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        energy, gradient = super().reduced_energy_and_gradient(0.1 * x)
        return self.factor * energy, 0.1 * self.factor * gradient


class AngstromAndKilojoule(Angstrom):
    factor = KT


class Amber99(Alanine):
    """OpenMM's model has another force field."""

    files: tuple[str, ...] = ("amber99sbildn.xml", "implicit/obc1.xml")

    def openmm_model(self) -> OpenMMModel:
        model = super().openmm_model()
        field = app.ForceField(*self.files)
        system = field.createSystem(make_topology(), nonbondedMethod=app.NoCutoff, removeCMMotion=False)
        return OpenMMModel(model.topology, system, model.collective_variables, model.platform, model.properties)


class OtherMolecule(Alanine):
    """All energies are of another force field than that of the minimum."""

    def openmm_system(self) -> openmm.System:
        return Vacuum().openmm_model().system


class Vacuum(Amber99):
    files = ("amber96.xml",)


class Torsions(Alanine):
    """OpenMM's forces are other functions of other torsions."""

    expression = "theta"
    quadruples: tuple[tuple[int, int, int, int], ...] = TORSIONS

    def openmm_model(self) -> OpenMMModel:
        model = super().openmm_model()
        forces = []
        for atoms in self.quadruples:
            force = openmm.CustomTorsionForce(self.expression)
            force.addTorsion(*atoms, [])
            forces.append(force)
        return OpenMMModel(model.topology, model.system, tuple(forces), model.platform, model.properties)


class OtherTorsion(Torsions):
    quadruples = (TORSIONS[0], (6, 8, 14, 15))


class OtherOrder(Torsions):
    quadruples = TORSIONS[::-1]


class Reversed(Torsions):
    expression = "-theta"


class Degrees(Torsions):
    expression = "theta*180/3.141592653589793"


class Zero(Torsions):
    expression = "theta+1.0"


class FewerForces(Torsions):
    quadruples = TORSIONS[:1]


class DegreesOfOurs(Alanine):
    """CVs and their domain in degrees."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.cvs = CollectiveVariables(("phi", "psi"), (-180.0,) * 2, (180.0,) * 2, (True, True), unit="deg")

    def collective_variables(self, x: torch.Tensor) -> torch.Tensor:
        return super().collective_variables(x).rad2deg()


class Masses(Alanine):
    @property
    def masses(self) -> torch.Tensor:  # type: ignore[override]
        return MASSES


class Particles(Alanine):
    def openmm_model(self) -> OpenMMModel:
        model = super().openmm_model()
        model.system.addParticle(1.0)
        return model


BROKEN: dict[str, tuple[type[AlanineDipeptide], str]] = {
    "NaN": (NotANumber, "energies or gradients differ by up to nan, relative"),
    "kJ/mol": (KilojoulePerMole, "energies seem to be in kJ/mol, not in kT; divide by kT = 2.4943 kJ/mol at 300 K"),
    "kcal/mol": (KilocaloriePerMole, "energies seem to be in kcal/mol, not in kT; divide by kT = 0.59616 kcal/mol"),
    "temperature": (OtherTemperature, "energies seem to be divided by kT at 310 K, but temperature is 300 K"),
    "sign": (WrongSign, "energies have the wrong sign (ratio -1)"),
    "constant": (Offset, "energies differ by a constant, 2 kT"),
    "angstrom": (Angstrom, "positions seem to be in angstrom, not nm (OpenMM's energies at 0.1 x agree)"),
    "angstrom and kJ/mol": (AngstromAndKilojoule, "0.1 x agree); energies seem to be in kJ/mol, not in kT"),
    "force field": (Amber99, "another force field, or another order of atoms? Gradients differ most at atoms"),
    "vacuum": (Vacuum, "another force field, or another order of atoms?"),
    "torsion": (OtherTorsion, "psi at the start is 2.80819 by collective_variables, but -0.344231 by OpenMM's force"),
    "variable": (OtherTorsion, "compare the atoms of the force with those in collective_variables"),
    "order": (OtherOrder, "it is psi; the forces must be in the order of the CVs: phi, psi"),
    "dihedral sign": (Reversed, "the signs differ; dihedrals have the IUPAC sign"),
    "degrees": (Degrees, "OpenMM's force seems to be in degrees; its energy must have the unit of the CV"),
    "degrees of ours": (DegreesOfOurs, "collective_variables seem to be in degrees, OpenMM's force in radians"),
    "zero": (Zero, "they differ by a constant, such as another zero of the angle"),
    "forces": (FewerForces, "1 forces for 2 CVs; give one per CV"),
    "masses": (Masses, "atom 0 (from 0) has mass 1 in masses, but 1.00795 dalton in openmm_model()"),
    "particles": (Particles, "23 particles in the system of openmm_model(), but 22 atoms"),
}


@pytest.mark.parametrize(("cls", "words"), BROKEN.values(), ids=BROKEN)
def test_a_disagreement_is_found_and_its_cause_named(cls: type[AlanineDipeptide], words: str) -> None:
    system = cls()
    with pytest.raises(Failure, match=f'trait "openmm": .*{re.escape(words)}') as caught:
        check_openmm(system, _perturbed(system))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", AlanineDipeptide.engines)
def test_alanine_dipeptide_agrees(engine: str) -> None:
    system = Alanine(engine=engine)
    x = _perturbed(system)
    assert check_openmm(system, x).startswith("OpenMM's energies, gradients and CVs agree to ")
    _check_minimum(system, x)


def test_degrees_in_a_domain_of_radians_are_named() -> None:
    class Mixed(Alanine):
        def collective_variables(self, x: torch.Tensor) -> torch.Tensor:
            return super().collective_variables(x).rad2deg()

    system = Mixed()
    with pytest.raises(Failure, match="outside its domain from -3.14159 to 3.14159; it seems to be in degrees"):
        _check_cvs(system, system.initial_configuration()[None])


class Moved(Alanine):
    shift = 1e-3

    def initial_configuration(self) -> torch.Tensor:
        start = super().initial_configuration()
        start[5, 0] += self.shift
        return start


class StartInAngstrom(Alanine):
    def initial_configuration(self) -> torch.Tensor:
        return 10.0 * super().initial_configuration()


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (Moved, r"the gradient at initial_configuration\(\) has norm .*minimise the energy further"),
        (OtherMolecule, r"the gradient at initial_configuration\(\) has norm"),
        (StartInAngstrom, r"but at 0.1 times its positions: they seem to be in angstrom, and the energy expects nm"),
    ],
)
def test_a_start_that_is_no_minimum_is_found(cls: type[Alanine], words: str) -> None:
    system = cls()
    with pytest.raises(Failure, match=words):
        _check_minimum(system, _perturbed(system))


def test_a_start_that_is_a_maximum_is_found() -> None:
    upside_down = WrongSign()
    x = _perturbed(Alanine())
    with pytest.raises(Failure, match=r"the energy falls by .* kT around initial_configuration\(\)"):
        _check_minimum(upside_down, x)
