"""The suite: molecules that are registered as systems, each a folder of data alone.

A folder holds ``molecule.yaml`` (`cgbench_systems.molecule`), the structure that it names, and ``reference``, the
certified reference. Imports `cgbench_systems.molecule`.
"""

from __future__ import annotations

from pathlib import Path

from cgbench_systems.molecule import Molecule, load_molecule

__all__ = ["SuiteMolecule", "glycine", "phenylalanine", "serine", "tetrapeptide", "valine", "valine_chi"]


class SuiteMolecule(Molecule):
    """A molecule of the suite; its reference is in the folder ``reference`` beside its file."""

    def __init__(self, *, engine: str | None = None, device: str = "cpu") -> None:
        super().__init__(engine=engine, device=device)
        self.reference_folder = self.file.with_name("reference")


def _member(name: str, folder: str) -> type[SuiteMolecule]:
    """Return the class of the molecule in a folder, to be known as `name`."""
    loaded = load_molecule(Path(__file__).parent / folder / "molecule.yaml")
    definition = loaded.definition
    what = ", ".join([Path(str(definition.pdb)).stem, *definition.force_field, f"{definition.temperature:g} K"])
    cvs = ", ".join(cv.name for cv in definition.cvs)
    members = {key: vars(loaded)[key] for key in ("definition", "file", "name", "version")}
    members |= {"__module__": __name__, "__doc__": f"Molecule of the suite: {what}, CVs {cvs}."}
    return type(name, (SuiteMolecule,), members)


glycine = _member("glycine", "gly")
valine = _member("valine", "val")
serine = _member("serine", "ser")
phenylalanine = _member("phenylalanine", "phe")
valine_chi = _member("valine_chi", "val_chi")
tetrapeptide = _member("tetrapeptide", "tetra")
