"""Alanine dipeptide in implicit solvent, the standard test molecule of this field: a folder of data.

``molecule.yaml`` gives the state space and two sets of coordinates: ``default``, and ``literature`` with wide scales
and twelve free dihedrals, whose flows reach cis peptide bonds; these are outside the state space.
"""

from __future__ import annotations

from pathlib import Path

from cgbench.contracts.reference import ReferenceBuilder
from cgbench_systems.molecular.system import MolecularSystem
from cgbench_systems.molecule import RegisteredMolecule

__all__ = ["REFERENCE_FOLDER", "AlanineDipeptide"]

REFERENCE_FOLDER = Path(__file__).with_name("reference")


class AlanineDipeptide(RegisteredMolecule, file=Path(__file__).with_name("molecule.yaml")):
    """Alanine dipeptide, AMBER ff96 with OBC1 implicit solvent, 300 K, no constraints, no cutoff.

    Parameters
    ----------
    engine
        "torch" (batched) or "openmm".
    device
        A torch device; OpenMM uses its CPU platform, or CUDA for a CUDA device.
    """

    def __init__(self, *, engine: str | None = None, device: str = "cpu") -> None:
        super().__init__(engine=engine, device=device)
        self.force_field = (
            "AMBER ff96 (amber96.xml) with OBC1 implicit solvent (implicit/obc1.xml), no cutoff, no constraints"
        )

    def reference_builder(self, folder: Path) -> ReferenceBuilder:
        """Return the builder in its long form, hours of a core."""
        return MolecularSystem.reference_builder(self, folder)
