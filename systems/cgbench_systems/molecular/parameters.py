"""Read the parameters of a force field from an ``openmm.System``; unsupported forces are refused."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openmm
from openmm.app.internal.customgbforces import GBSAOBC1Force, GBSAOBC2Force

from cgbench.errors import UserError

__all__ = ["BornParameters", "ForceFieldParameters", "read_parameters"]

COULOMB_CONSTANT = 138.93545764438198  # kJ nm / (mol e^2), OpenMM's ONE_4PI_EPS0
CUSTOM_COULOMB_CONSTANT = 138.935485  # the value in OpenMM's custom generalized-Born expressions
ACE_CONSTANT = 28.3919551  # kJ/(mol nm^2): 4 pi times 2.25936, Schaefer et al. 1998
OFFSET = 0.009  # nm, dielectric offset of the Born radii (Onufriev, Bashford, Case 2004)
SUPPORTED = (
    "HarmonicBondForce, HarmonicAngleForce, PeriodicTorsionForce, NonbondedForce without cutoff, "
    "GBSAOBCForce or CustomGBForce with OBC1/OBC2, CMMotionRemover"
)


@dataclass
class BornParameters:
    """Generalized-Born parameters (OBC) of every atom, in OpenMM's units.

    Attributes
    ----------
    charge
        In elementary charges.
    offset_radius, scaled_radius
        Radius minus the dielectric offset, and that times the screening factor.
    tanh_coefficients
        alpha, beta and gamma of the Born radius.
    prefactor
        Coulomb constant times the difference of the inverse dielectric constants.
    ace
        Surface energy in kJ/(mol nm^2); 0 for none.
    engulfing
        Whether the Born integral of an atom inside another one has the extra term of `GBSAOBCForce`.
    """

    charge: np.ndarray
    offset_radius: np.ndarray
    scaled_radius: np.ndarray
    tanh_coefficients: tuple[float, float, float]
    prefactor: float
    ace: float
    engulfing: bool


@dataclass
class ForceFieldParameters:
    """Parameters of every term of a force field, in OpenMM's units (nm, kJ/mol, rad).

    Attributes
    ----------
    atoms
        Number of atoms.
    bonds
        ``(i, j, length, stiffness)``.
    angles
        ``(i, j, k, angle, stiffness)``.
    torsions
        ``(i, j, k, l, periodicity, phase, barrier)``.
    charge_product, sigma, epsilon
        Of every pair of atoms, ``[atoms, atoms]``, with the exceptions applied.
    born
        Implicit solvent, or None.
    """

    atoms: int
    bonds: list[tuple[int, int, float, float]] = field(default_factory=list)
    angles: list[tuple[int, int, int, float, float]] = field(default_factory=list)
    torsions: list[tuple[int, int, int, int, int, float, float]] = field(default_factory=list)
    charge_product: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    sigma: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    epsilon: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    born: BornParameters | None = None


def _unsupported(what: str) -> UserError:
    return UserError(
        f"the batched force field does not support {what}; it supports {SUPPORTED}; use OpenMM, by --engine openmm"
    )


def read_parameters(system: openmm.System) -> ForceFieldParameters:
    """Read all parameters of a system.

    Raises
    ------
    UserError
        If a force or a feature is not supported; the message names it.
    """
    if system.getNumConstraints():  # of no use with OpenMM either: the energy does not contain them
        raise UserError(
            f"constraints ({system.getNumConstraints()} in this system) are not supported: build it with "
            "constraints=None"
        )
    atoms = system.getNumParticles()
    for index in range(atoms):
        if system.isVirtualSite(index):
            raise _unsupported(f"virtual sites (particle {index})")
    parameters = ForceFieldParameters(
        atoms, charge_product=np.zeros((atoms, atoms)), sigma=np.ones((atoms, atoms)), epsilon=np.zeros((atoms, atoms))
    )
    readers = {
        "HarmonicBondForce": _read_bonds,
        "HarmonicAngleForce": _read_angles,
        "PeriodicTorsionForce": _read_torsions,
        "NonbondedForce": _read_nonbonded,
        "GBSAOBCForce": _read_gbsa,
        "CustomGBForce": _read_custom_gb,
    }
    seen: set[str] = set()
    for force in system.getForces():
        kind = type(force).__name__
        kind = "CustomGBForce" if isinstance(force, openmm.CustomGBForce) else kind
        if kind == "CMMotionRemover":
            continue
        if kind not in readers:
            raise _unsupported(kind)
        born = kind in ("GBSAOBCForce", "CustomGBForce")
        if "born" in seen and born or kind == "NonbondedForce" and kind in seen:
            raise _unsupported(f"two forces of type {kind}")
        if force.usesPeriodicBoundaryConditions():
            raise _unsupported(f"periodic boundaries ({kind})")
        seen.add("born" if born else kind)
        readers[kind](force, parameters)
    return parameters


def _value(quantity: Any) -> float:
    """Return a quantity in OpenMM's units as a plain number."""
    if hasattr(quantity, "unit"):
        return float(quantity.value_in_unit_system(openmm.unit.md_unit_system))
    return float(quantity)


def _read_bonds(force: Any, parameters: ForceFieldParameters) -> None:
    for index in range(force.getNumBonds()):
        i, j, length, k = force.getBondParameters(index)
        parameters.bonds.append((i, j, _value(length), _value(k)))


def _read_angles(force: Any, parameters: ForceFieldParameters) -> None:
    for index in range(force.getNumAngles()):
        i, j, k, angle, stiffness = force.getAngleParameters(index)
        parameters.angles.append((i, j, k, _value(angle), _value(stiffness)))


def _read_torsions(force: Any, parameters: ForceFieldParameters) -> None:
    for index in range(force.getNumTorsions()):
        i, j, k, m, periodicity, phase, barrier = force.getTorsionParameters(index)
        parameters.torsions.append((i, j, k, m, periodicity, _value(phase), _value(barrier)))


def _read_nonbonded(force: Any, parameters: ForceFieldParameters) -> None:
    if force.getNonbondedMethod() != openmm.NonbondedForce.NoCutoff:
        raise _unsupported("NonbondedForce with a cutoff")
    if force.getNumParticleParameterOffsets() or force.getNumExceptionParameterOffsets():
        raise _unsupported("NonbondedForce with parameter offsets")
    particles = np.array([[_value(p) for p in force.getParticleParameters(i)] for i in range(parameters.atoms)])
    charge, sigma, epsilon = particles.T
    parameters.charge_product = np.outer(charge, charge)
    parameters.sigma = 0.5 * (sigma[:, None] + sigma[None, :])
    parameters.epsilon = np.sqrt(np.outer(epsilon, epsilon))
    for index in range(force.getNumExceptions()):
        i, j, product, sigma_ij, epsilon_ij = force.getExceptionParameters(index)
        for a, b in ((i, j), (j, i)):
            parameters.charge_product[a, b] = _value(product)
            parameters.sigma[a, b] = _value(sigma_ij)
            parameters.epsilon[a, b] = _value(epsilon_ij)


def _read_gbsa(force: Any, parameters: ForceFieldParameters) -> None:
    if force.getNonbondedMethod() != openmm.GBSAOBCForce.NoCutoff:
        raise _unsupported("GBSAOBCForce with a cutoff")
    rows = np.array([[_value(p) for p in force.getParticleParameters(i)] for i in range(parameters.atoms)])
    charge, radius, scale = rows.T
    surface = _value(force.getSurfaceAreaEnergy())
    parameters.born = BornParameters(
        charge=charge,
        offset_radius=radius - OFFSET,
        scaled_radius=scale * (radius - OFFSET),
        tanh_coefficients=(1.0, 0.8, 4.85),
        prefactor=COULOMB_CONSTANT * (1 / force.getSoluteDielectric() - 1 / force.getSolventDielectric()),
        ace=4 * math.pi * surface,
        engulfing=True,
    )


def _expressions(force: Any) -> list[tuple[str, int]]:
    """Return the computed values and energy terms, without the constants that follow them."""
    found = []
    for index in range(force.getNumComputedValues()):
        name, expression, kind = force.getComputedValueParameters(index)
        found.append((f"{name}={expression.replace(' ', '')}", kind))
    for index in range(force.getNumEnergyTerms()):
        expression, kind = force.getEnergyTermParameters(index)
        found.append((expression.replace(" ", "").split(";solventDielectric=")[0], kind))
    return found


def _read_custom_gb(force: Any, parameters: ForceFieldParameters) -> None:
    if force.getNonbondedMethod() != openmm.CustomGBForce.NoCutoff:
        raise _unsupported("CustomGBForce with a cutoff")
    if force.getNumExclusions() or force.getNumTabulatedFunctions():
        raise _unsupported("CustomGBForce with exclusions or tabulated functions (only OBC1 and OBC2)")
    if force.getNumGlobalParameters() or force.getNumParticles() != parameters.atoms:
        raise _unsupported("CustomGBForce with global parameters or missing particles")
    expressions = _expressions(force)
    known = [
        (model, coefficients, surface)
        for model, coefficients in ((GBSAOBC1Force, (0.8, 0.0, 2.909125)), (GBSAOBC2Force, (1.0, 0.8, 4.85)))
        for surface in (None, "ACE")
    ]
    matches = [
        (coefficients, surface)
        for model, coefficients, surface in known
        if _expressions(model(SA=surface)) == expressions
    ]
    if not matches:
        raise _unsupported("this CustomGBForce (only OBC1 and OBC2 as OpenMM's own force fields write them)")
    coefficients, surface = matches[0]
    names = [force.getPerParticleParameterName(i) for i in range(force.getNumPerParticleParameters())]
    if names != ["charge", "or", "sr"]:
        raise _unsupported(f"CustomGBForce with the parameters {', '.join(names)}")
    rows = np.array([force.getParticleParameters(i) for i in range(parameters.atoms)])
    constants: dict[str, float] = {}
    for index in range(force.getNumEnergyTerms()):
        text = force.getEnergyTermParameters(index)[0]
        constants |= {k: float(v) for k, v in re.findall(r"(\w+)=([-+0-9.eE]+)(?:;|$)", text)}
    if constants.get("kappa", 0.0) != 0.0 or constants.get("offset", OFFSET) != OFFSET:
        raise _unsupported("CustomGBForce with salt (kappa) or another dielectric offset")
    parameters.born = BornParameters(
        charge=rows[:, 0],
        offset_radius=rows[:, 1],
        scaled_radius=rows[:, 2],
        tanh_coefficients=coefficients,
        prefactor=CUSTOM_COULOMB_CONSTANT * (1 / constants["soluteDielectric"] - 1 / constants["solventDielectric"]),
        ace=0.0 if surface is None else ACE_CONSTANT,
        engulfing=False,
    )
