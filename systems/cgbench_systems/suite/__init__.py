"""The suite: molecules that are registered as systems, each a folder of data alone.

A folder holds ``molecule.yaml`` (`cgbench_systems.molecule`), the structure that it names, and ``reference``, the
certified reference. Imports `cgbench_systems.molecule`.
"""

from __future__ import annotations

from pathlib import Path

from cgbench_systems.molecule import RegisteredMolecule
from cgbench_systems.molecule.definition import read_definition

__all__ = ["glycine", "phenylalanine", "serine", "tetrapeptide", "valine", "valine_chi"]


def _member(name: str, folder: str) -> type[RegisteredMolecule]:
    """Return the class of the molecule in a folder, to be known as `name`."""
    file = Path(__file__).parent / folder / "molecule.yaml"
    definition, _, _ = read_definition(file)
    what = ", ".join([Path(str(definition.pdb)).stem, *definition.force_field, f"{definition.temperature:g} K"])
    cvs = ", ".join(cv.name for cv in definition.cvs)
    # its code is that of any registered molecule, and not this list
    members = {"__module__": RegisteredMolecule.__module__, "__doc__": f"Molecule of the suite: {what}, CVs {cvs}."}
    return type(name, (RegisteredMolecule,), members, file=file)


glycine = _member("glycine", "gly")
valine = _member("valine", "val")
serine = _member("serine", "ser")
phenylalanine = _member("phenylalanine", "phe")
valine_chi = _member("valine_chi", "val_chi")
tetrapeptide = _member("tetrapeptide", "tetra")
