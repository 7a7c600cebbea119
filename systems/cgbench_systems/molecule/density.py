"""Checks that an ``openmm.System`` defines a density of the positions alone, as methods and coordinates assume."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import unit

from cgbench.errors import UserError
from cgbench_systems.molecular.forcefield import GAS_CONSTANT

__all__ = ["check_invariance", "check_system", "reference_context", "unequal_hydrogens"]

Array = NDArray[np.float64]
TOLERANCE = 1e-6  # by which the energies of equivalent configurations may differ, in kT and relative
DISPLACEMENT = 0.003  # nm, of all atoms, before equal hydrogens are exchanged: a minimum may be symmetric by itself


def check_system(system: openmm.System, source: str) -> None:
    """Refuse a system whose dynamics are not those of its potential energy at one temperature.

    Parameters
    ----------
    system
        The system.
    source
        What it was made from, for messages.

    Raises
    ------
    UserError
        If it has constraints, virtual sites, particles without mass, a thermostat or a barostat.
    """
    if count := system.getNumConstraints():
        raise UserError(
            f"{source}: the OpenMM system has {count} constraints, which the energy of a configuration does not "
            "contain: build it with constraints=None and rigidWater=False"
        )
    for index in range(system.getNumParticles()):
        if system.isVirtualSite(index):
            raise UserError(f"{source}: particle {index} (from 0) is a virtual site: systems here have atoms only")
        mass = system.getParticleMass(index).value_in_unit(unit.dalton)
        if not mass > 0:
            raise UserError(f"{source}: particle {index} (from 0) has mass {mass:g} dalton: it must be positive")
    for force in system.getForces():
        kind = type(force).__name__
        if "Thermostat" in kind or "Barostat" in kind:
            raise UserError(f"{source}: the OpenMM system has a {kind}, which no energy contains: remove this force")


def reference_context(serialized: str, source: str) -> openmm.Context:
    """Return a context of a serialised system on OpenMM's Reference platform.

    Raises
    ------
    UserError
        If OpenMM refuses the system.
    """
    try:
        return openmm.Context(
            openmm.XmlSerializer.deserialize(serialized),
            openmm.VerletIntegrator(0.001),
            openmm.Platform.getPlatformByName("Reference"),
        )
    except openmm.OpenMMException as error:
        raise UserError(f"{source}: OpenMM cannot use the system: {' '.join(str(error).split())}") from error


class _Energies:
    """Energies of an OpenMM system on its Reference platform, in kT."""

    def __init__(self, serialized: str, temperature: float, source: str = "") -> None:
        self._context = reference_context(serialized, source)
        self._kT = GAS_CONSTANT * temperature

    def __call__(self, positions: Array) -> float:
        self._context.setPositions(positions)
        energy = self._context.getState(getEnergy=True).getPotentialEnergy()
        return float(energy.value_in_unit(unit.kilojoule_per_mole) / self._kT)


def _differ(first: float, second: float) -> bool:
    return not abs(first - second) <= TOLERANCE * (1.0 + abs(first))


@cache
def check_invariance(serialized: str, positions: bytes, temperature: float, source: str) -> None:
    """Check, once in a process, that the energy does not change if the whole molecule is moved.

    Parameters
    ----------
    serialized
        The system, serialised.
    positions
        Bytes of a configuration, float64 ``[atoms, 3]`` in nm.
    temperature
        In kelvin.
    source
        What it was made from, for messages.

    Raises
    ------
    UserError
        If the energy changes.
    """
    energy, x = _Energies(serialized, temperature, source), np.frombuffer(positions).reshape(-1, 3)
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))  # no reflection
    before, after = energy(x), energy(x @ turn.T + np.array([0.3, -0.2, 0.1]))
    if _differ(before, after):
        raise UserError(
            f"{source}: the energy changes by {after - before:+.3g} kT when the whole molecule is turned and shifted, "
            "by an external force or a periodic box for example: remove what depends on the place of the molecule"
        )


@cache
def unequal_hydrogens(
    serialized: str, positions: bytes, temperature: float, rotors: Sequence[tuple[int, tuple[int, int, int]]]
) -> frozenset[int]:
    """Return the atoms of `rotors` whose three hydrogens the energy or the masses tell apart, once in a process.

    Coordinates fold a turn of three equal hydrogens by a third of a circle. That is right only if a cyclic exchange
    leaves the energy unchanged, which charges that were fitted for each atom, for example, do not.

    Parameters
    ----------
    serialized, positions, temperature
        As for `check_invariance`.
    rotors
        Atoms with three hydrogens, and these hydrogens.
    """
    energy, x = _Energies(serialized, temperature), np.frombuffer(positions).reshape(-1, 3)
    system = openmm.XmlSerializer.deserialize(serialized)
    x = x + DISPLACEMENT * np.random.default_rng(0).normal(size=x.shape)
    before = energy(x)
    return frozenset(
        atom
        for atom, hydrogens in rotors
        if _differ(before, energy(_exchanged(x, hydrogens)))
        or len({system.getParticleMass(index).value_in_unit(unit.dalton) for index in hydrogens}) > 1
    )


def _exchanged(x: Array, atoms: tuple[int, int, int]) -> Array:
    """Return a configuration with three atoms exchanged cyclically."""
    exchanged = x.copy()
    exchanged[list(atoms)] = x[[*atoms[1:], atoms[0]]]
    return exchanged
