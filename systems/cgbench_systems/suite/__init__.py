"""The suite: molecules that are registered as systems, each a folder of data alone.

A folder holds ``molecule.yaml`` (`cgbench_systems.molecule`), the structure that it names, and ``reference``, the
certified reference. Imports `cgbench_systems.molecule`.
"""

from __future__ import annotations

from pathlib import Path

from cgbench_systems.molecule import RegisteredMolecule, registered_molecule

__all__ = ["glycine", "phenylalanine", "serine", "tetrapeptide", "valine", "valine_chi"]


def _member(name: str, folder: str) -> type[RegisteredMolecule]:
    """Return the class of the molecule in a folder, to be known as `name`."""
    return registered_molecule(name, Path(__file__).parent / folder / "molecule.yaml", "Molecule of the suite")


glycine = _member("glycine", "gly")
valine = _member("valine", "val")
serine = _member("serine", "ser")
phenylalanine = _member("phenylalanine", "phe")
valine_chi = _member("valine_chi", "val_chi")
tetrapeptide = _member("tetrapeptide", "tetra")
