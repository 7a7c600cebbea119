"""Checks of the trait "openmm": OpenMM's model has the masses, energies and CVs of the system.

A disagreement is compared with the usual mistakes in units, signs and order, and the likely one is named.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.conformance.failures import Failure
from cgbench.contracts.system import OpenMMModel, System

__all__ = ["check_openmm"]

AGREEMENT = 1e-4  # relative; of energies, gradients and masses, and of CVs relative to the width of their domain
EXPLAINED = 0.01  # relative; largest deviation of a ratio from that of a mistake
PARALLEL = 1e-3  # relative; largest deviation of gradients or energies that differ by a factor
CALORIE = 4.184
Array = NDArray[np.float64]


def check_openmm(system: System, x: torch.Tensor) -> str:
    """Compare OpenMM's model with the system at its start and at configurations ``x``; describe the result.

    Raises
    ------
    Failure
        For the first disagreement, with the likely mistake.
    """
    model = system.openmm_model()
    _check_particles(system, model, x.shape[1])
    start = system.initial_configuration()
    # also farther from the start, where other terms of the energy dominate
    x = torch.cat([start[None], x, start + 2.0 * (x - start)])
    energy, gradient = (value.detach().cpu().double().numpy() for value in system.reduced_energy_and_gradient(x))
    usable = np.isfinite(energy)
    x, energy, gradient = x[torch.from_numpy(usable).to(x.device)], energy[usable], gradient[usable]
    worst = _check_energies(_OpenMM(model.system, float(system.temperature)), x, energy, gradient)
    worst = max(worst, _check_cvs(system, model, x))
    return f"OpenMM's energies, gradients and CVs agree to {worst:.0e}"


def _failure(words: str) -> Failure:
    return Failure(f'trait "openmm": {words}')


def _check_particles(system: System, model: OpenMMModel, atoms: int) -> None:
    if len(model.collective_variables) != len(system.cvs):
        raise _failure(f"{len(model.collective_variables)} forces for {len(system.cvs)} CVs; give one per CV")
    counts = {"system": model.system.getNumParticles(), "topology": model.topology.getNumAtoms()}
    for name, count in counts.items():
        if count != atoms:
            raise _failure(f"{count} particles in the {name} of openmm_model(), but {atoms} atoms")
    if system.masses is None:
        return
    from openmm import unit

    expected = [model.system.getParticleMass(atom).value_in_unit(unit.dalton) for atom in range(atoms)]
    for atom, (mass, other) in enumerate(zip(system.masses.tolist(), expected, strict=True)):
        if not math.isclose(mass, other, rel_tol=AGREEMENT):
            raise _failure(
                f"atom {atom} (from 0) has mass {mass:.6g} in masses, but {other:.6g} dalton in openmm_model(): "
                "masses must be in dalton, in the order of the atoms"
            )


class _OpenMM:
    """Energies of an OpenMM system on its Reference platform, in kT at a temperature."""

    def __init__(self, system: Any, temperature: float) -> None:
        import openmm
        from openmm import unit

        gas_constant = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin)
        self.temperature, self.kT = temperature, gas_constant * temperature
        platform = openmm.Platform.getPlatformByName("Reference")
        self._context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)

    def evaluate(self, x: torch.Tensor) -> tuple[Array, Array]:
        """Return reduced energies ``[batch]`` and gradients ``[batch, atoms, 3]`` in 1/nm."""
        from openmm import unit

        energies, gradients = [], []
        for positions in x.detach().cpu().double().numpy():
            self._context.setPositions(positions)
            state = self._context.getState(getEnergy=True, getForces=True)
            energies.append(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))
            forces = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
            gradients.append(-np.asarray(forces))
        return np.array(energies) / self.kT, np.array(gradients) / self.kT


# ---- energies -----------------------------------------------------------------------------------------


def _check_energies(openmm: _OpenMM, x: torch.Tensor, energy: Array, gradient: Array) -> float:
    """Compare energies and gradients with OpenMM's; return the largest relative difference."""
    expected, slopes = openmm.evaluate(x)
    error = float((np.abs(energy - expected) / (np.abs(expected) + 1.0)).max())
    norms = np.linalg.norm(slopes, axis=(1, 2))
    apart = np.linalg.norm(gradient - slopes, axis=(1, 2)) / (norms + np.median(norms))
    error = float(np.maximum(error, apart.max()))  # keeps NaN
    if error <= AGREEMENT:
        return error
    cause = _cause_of_energies(openmm, x, energy, gradient, expected, slopes)
    raise _failure(
        f"reduced_energy at the start is {energy[0]:.6g}, OpenMM's energy divided by kT is {expected[0]:.6g}; energies "
        f"or gradients differ by up to {error:.1e}, relative: {cause}"
    )


def _cause_of_energies(
    openmm: _OpenMM, x: torch.Tensor, energy: Array, gradient: Array, expected: Array, slopes: Array
) -> str:
    """Return the likely mistake in words."""
    factor = _factor(gradient, slopes)
    if factor is not None:
        if _near(factor, 1.0):
            shift = float(np.mean(energy - expected))
            return f"energies differ by a constant, {shift:.6g} kT; leave nothing out of the energy"
        return _cause_of_factor(factor, openmm)
    for scale, words in ((0.1, "angstrom, not nm"), (10.0, "a unit of 10 nm, not nm")):
        factor = _factor(energy, openmm.evaluate(scale * x)[0])
        if factor is not None:
            also = "" if _near(factor, 1.0) else f"; {_cause_of_factor(factor, openmm)}"
            return f"positions seem to be in {words} (OpenMM's energies at {scale:g} x agree){also}"
    atoms = np.linalg.norm(gradient - slopes, axis=2).max(axis=0)
    largest = ", ".join(str(atom) for atom in np.argsort(-atoms)[:4])
    return f"another force field, or another order of atoms? Gradients differ most at atoms {largest} (from 0)"


def _cause_of_factor(factor: float, openmm: _OpenMM) -> str:
    """Return the likely mistake if reduced energies are larger than OpenMM's by this factor."""
    temperature, kT = openmm.temperature, openmm.kT
    for value, name in ((kT, "kJ/mol"), (kT / CALORIE, "kcal/mol")):
        if _near(factor, value):
            return f"energies seem to be in {name}, not in kT; divide by kT = {value:.5g} {name} at {temperature:g} K"
        if _near(factor, 1.0 / value):
            return f"energies seem to be divided by kT = {value:.5g} {name} twice"
    if _near(factor, CALORIE) or _near(factor, 1.0 / CALORIE):
        return f"the ratio is {factor:.5g}: kcal and kJ seem to be confused (1 kcal = {CALORIE} kJ)"
    if factor < 0:
        return f"energies have the wrong sign (ratio {factor:.5g})"
    return (
        f"the ratio is {factor:.5g}: energies seem to be divided by kT at {temperature / factor:.5g} K, but "
        f"temperature is {temperature:g} K"
    )


def _near(value: float, expected: float) -> bool:
    return math.isclose(value, expected, rel_tol=EXPLAINED)


def _factor(found: Array, expected: Array) -> float | None:
    """Return the factor by which one array is larger than another; None if they do not differ by a factor."""
    with np.errstate(all="ignore"):
        factor = float((found * expected).sum() / (expected * expected).sum())
        rest = float(np.linalg.norm(found - factor * expected) / np.linalg.norm(found))
    return factor if rest < PARALLEL else None


# ---- collective variables -----------------------------------------------------------------------------


def _check_cvs(system: System, model: OpenMMModel, x: torch.Tensor) -> float:
    """Compare the CVs with the energies of OpenMM's forces; return the largest difference per width of a domain."""
    s = system.collective_variables(x).detach().cpu().double().numpy()
    values = np.stack([_values(model, force, x) for force in model.collective_variables], axis=1)
    worst = 0.0
    for axis, name in enumerate(system.cvs.names):
        width = system.cvs.upper[axis] - system.cvs.lower[axis]
        error = _apart(system, axis, s[:, axis], values[:, axis]) / width
        if not error <= AGREEMENT:
            raise _failure(
                f"{name} at the start is {s[0, axis]:.6g} by collective_variables, but {values[0, axis]:.6g} by "
                f"OpenMM's force: {_cause_of_cv(system, axis, s, values)}"
            )
        worst = max(worst, error)
    return worst


def _values(model: OpenMMModel, force: Any, x: torch.Tensor) -> Array:
    """Return the energy of a force alone, which is the CV."""
    import openmm

    alone = openmm.System()
    for _ in range(model.system.getNumParticles()):
        alone.addParticle(1.0)
    alone.setDefaultPeriodicBoxVectors(*model.system.getDefaultPeriodicBoxVectors())
    alone.addForce(copy.deepcopy(force))  # a force belongs to one system only
    engine = _OpenMM(alone, 300.0)
    return np.asarray(engine.evaluate(x)[0] * engine.kT)


def _apart(system: System, axis: int, a: Array, b: Array) -> float:
    """Return the largest difference, to the nearest image of a periodic CV."""
    difference = a - b
    if system.cvs.periodic[axis]:
        period = system.cvs.upper[axis] - system.cvs.lower[axis]
        difference = difference - period * np.round(difference / period)
    return float(np.abs(difference).max())


def _cause_of_cv(system: System, axis: int, s: Array, values: Array) -> str:
    """Return the likely mistake in words."""
    names, found, expected = system.cvs.names, s[:, axis], values[:, axis]
    tolerance = AGREEMENT * (system.cvs.upper[axis] - system.cvs.lower[axis])

    def equal(a: Array, b: Array) -> bool:
        return _apart(system, axis, a, b) <= tolerance

    orders = [other for other in range(len(names)) if other != axis and equal(s[:, other], expected)]
    if orders:
        return f"it is {names[orders[0]]}; the forces must be in the order of the CVs: {', '.join(names)}"
    if equal(found, -expected):
        return "the signs differ; dihedrals have the IUPAC sign, as OpenMM's theta"
    factors: Sequence[tuple[float, str]] = (
        (math.pi / 180, "OpenMM's force seems to be in degrees; its energy must have the unit of the CV"),
        (180 / math.pi, "collective_variables seem to be in degrees, OpenMM's force in radians; use one unit"),
        (-math.pi / 180, "OpenMM's force seems to be in degrees, with another sign"),
        (-180 / math.pi, "collective_variables seem to be in degrees, with another sign"),
        (0.1, "OpenMM's force seems to be in angstrom; its energy must have the unit of the CV"),
        (10.0, "collective_variables seem to be in angstrom, OpenMM's force in nm; use one unit"),
    )
    for factor, words in factors:
        if equal(found, factor * expected):
            return words
    if equal(found - found[0], expected - expected[0]):
        return "they differ by a constant, such as another zero of the angle"
    return "they are different variables; compare the atoms of the force with those in collective_variables"
