"""The parts of alanine dipeptide, for tests of what is below a system."""

from __future__ import annotations

from functools import cache

import numpy as np
import openmm
import torch
from openmm import app

from cgbench_systems.aldp import AlanineDipeptide
from cgbench_systems.molecule.coordinates import MoleculeCoordinates, molecule_coordinates

TEMPERATURE = 300.0


@cache
def _molecule() -> AlanineDipeptide:
    return AlanineDipeptide()


def make_system() -> openmm.System:
    return _molecule().openmm_system()


def make_topology() -> app.Topology:
    return _molecule().topology()


def initial_positions() -> np.ndarray:
    """Minimum-energy configuration ``[22, 3]`` in nm."""
    return _molecule().initial_configuration().numpy()


def make_coordinates(name: str = "default", reference: torch.Tensor | None = None) -> MoleculeCoordinates:
    """Coordinates around the minimum, or around another configuration ``[22, 3]``."""
    molecule = _molecule()
    if reference is None:
        reference = molecule.initial_configuration()
    return molecule_coordinates(molecule.structure, molecule.definition, molecule.torsions, reference)[name]
