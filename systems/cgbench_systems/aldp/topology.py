"""Topology, force field and minimum-energy configuration of alanine dipeptide, all from OpenMM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

__all__ = ["ATOM_NAMES", "TEMPERATURE", "initial_positions", "make_system", "make_topology", "minimise"]

TEMPERATURE = 300.0
ATOM_NAMES = (
    ("ACE", ("HH31", "CH3", "HH32", "HH33", "C", "O")),
    ("ALA", ("N", "H", "CA", "HA", "CB", "HB1", "HB2", "HB3", "C", "O")),
    ("NME", ("N", "H", "CH3", "HH31", "HH32", "HH33")),
)
BONDS = [(0, 1), (1, 2), (1, 3), (1, 4), (4, 5), (4, 6), (6, 7), (6, 8), (8, 9), (8, 10), (10, 11), (10, 12)] + [
    (10, 13),
    (8, 14),
    (14, 15),
    (14, 16),
    (16, 17),
    (16, 18),
    (18, 19),
    (18, 20),
    (18, 21),
]
POSITIONS = Path(__file__).with_name("initial_configuration.txt")


def make_topology() -> app.Topology:
    """Return the topology of Ace-Ala-Nme, with its 22 atoms in Amber's order."""
    topology = app.Topology()
    chain = topology.addChain()
    for residue_name, atom_names in ATOM_NAMES:
        residue = topology.addResidue(residue_name, chain)
        for name in atom_names:
            topology.addAtom(name, app.Element.getBySymbol(name[0]), residue)
    atoms = list(topology.atoms())
    for i, j in BONDS:
        topology.addBond(atoms[i], atoms[j])
    return topology


def make_system() -> openmm.System:
    """Return the molecule in AMBER ff96 with OBC1 implicit solvent (OpenMM's files), no cutoff, no constraints."""
    force_field = app.ForceField("amber96.xml", "implicit/obc1.xml")
    return force_field.createSystem(
        make_topology(), nonbondedMethod=app.NoCutoff, constraints=None, removeCMMotion=False
    )


def initial_positions() -> np.ndarray:
    """Return the minimum-energy configuration near (phi, psi) = (-146, 161) degrees, ``[22, 3]`` in nm.

    `minimise` made it from an extended chain; `tests/systems/aldp` checks that it is a minimum.
    """
    return np.loadtxt(POSITIONS)


def minimise(positions: np.ndarray, tolerance: float = 1e-4) -> np.ndarray:
    """Return the minimum that OpenMM finds, to a root-mean-square force of `tolerance` in kJ/(mol nm)."""
    integrator = openmm.VerletIntegrator(0.001)
    context = openmm.Context(make_system(), integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions)
    openmm.LocalEnergyMinimizer.minimize(context, tolerance, 0)
    state = context.getState(getPositions=True)
    return np.asarray(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
