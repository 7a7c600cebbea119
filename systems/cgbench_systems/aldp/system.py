"""Alanine dipeptide in implicit solvent, on the batched force field or on OpenMM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import openmm
import torch
from openmm import app

from cgbench.contracts.coordinates import Coordinates
from cgbench.contracts.system import Basin
from cgbench_systems.aldp.coordinates import PHI, PSI, AlanineCoordinates, default_coordinates, literature_coordinates
from cgbench_systems.aldp.topology import TEMPERATURE, initial_positions, make_system, make_topology
from cgbench_systems.molecular.system import MolecularSystem, angle_range, torsion_cvs

__all__ = ["REFERENCE_FOLDER", "AlanineDipeptide"]

REFERENCE_FOLDER = Path(__file__).with_name("reference")


def _positive_phi(columns: Sequence[np.ndarray]) -> np.ndarray:
    return np.asarray(columns[0] > 0.0)


class AlanineDipeptide(MolecularSystem):
    """Alanine dipeptide, AMBER ff96 with OBC1 implicit solvent, 300 K, no constraints, no cutoff.

    The state space is L-alanine with trans peptide bonds (see `AlanineCoordinates.in_state_space`).

    Parameters
    ----------
    engine
        "torch" (batched) or "openmm".
    device
        A torch device; OpenMM uses its CPU platform, or CUDA for a CUDA device.
    """

    name = "aldp"
    version = "1"
    torsions = (PHI, PSI)
    force_field = "AMBER ff96 (amber96.xml) with OBC1 implicit solvent (implicit/obc1.xml), no cutoff, no constraints"
    reference_folder = REFERENCE_FOLDER

    def __init__(self, *, engine: str | None = None, device: str = "cpu") -> None:
        super().__init__(engine=engine, device=device)
        self.temperature = TEMPERATURE
        self.cvs = torsion_cvs(("phi", "psi"))
        self.basins = (
            Basin("C5/PPII", angle_range(((180, 0), (60, -120)))),
            Basin("alphaR", angle_range(((180, 0), (-120, 60)))),
            Basin("phi>0", _positive_phi),
        )
        self.coordinates = self._sets["default"]

    @cached_property
    def _sets(self) -> dict[str, AlanineCoordinates]:
        reference = torch.from_numpy(initial_positions())
        return {"default": default_coordinates(reference), "literature": literature_coordinates(reference)}

    @property
    def coordinate_sets(self) -> Mapping[str, Coordinates]:
        """Coordinate sets "default" (folded methyl rotors, narrow scales) and "literature" (12 free dihedrals)."""
        return self._sets

    def topology(self) -> app.Topology:
        """Return OpenMM's topology, 22 atoms."""
        return make_topology()

    def openmm_system(self) -> openmm.System:
        """Return the molecule's ``openmm.System``, which defines its energy."""
        return make_system()

    def initial_configuration(self) -> torch.Tensor:
        """Return the minimum near (phi, psi) = (-146, 161) degrees, ``[22, 3]`` in nm."""
        return torch.from_numpy(initial_positions()).to(self.device)
