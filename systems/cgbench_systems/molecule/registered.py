"""Molecules that are registered as systems, each a folder with ``molecule.yaml`` and a certified reference."""

from __future__ import annotations

from pathlib import Path

from cgbench_systems.molecule.definition import read_definition
from cgbench_systems.molecule.system import Molecule

__all__ = ["RegisteredMolecule", "registered_molecule"]


class RegisteredMolecule(Molecule):
    """A molecule whose file comes with the package; its reference is in the folder ``reference`` beside it.

    A subclass names its file: ``class Glycine(RegisteredMolecule, file=...)``.
    """

    def __init_subclass__(cls, file: Path | None = None) -> None:
        super().__init_subclass__()
        if file is not None:
            cls.definition, cls.name, cls.version = read_definition(file)
            cls.file = file.resolve()

    def __init__(self, *, engine: str | None = None, device: str = "cpu") -> None:
        super().__init__(engine=engine, device=device)
        self.reference_folder = self.file.with_name("reference")


def registered_molecule(name: str, file: Path, what: str) -> type[RegisteredMolecule]:
    """Return a class for a molecule's file.

    Parameters
    ----------
    name
        Name of the class.
    file
        Path of ``molecule.yaml``.
    what
        What the description begins with, such as "Molecule of the suite".
    """
    definition, _, _ = read_definition(file)
    facts = ", ".join([Path(str(definition.pdb)).stem, *definition.force_field, f"{definition.temperature:g} K"])
    cvs = ", ".join(cv.name for cv in definition.cvs)
    # its code is that of any registered molecule, not that of a list of them
    members = {"__module__": __name__, "__doc__": f"{what}: {facts}, CVs {cvs}."}
    return type(name, (RegisteredMolecule,), members, file=file)
