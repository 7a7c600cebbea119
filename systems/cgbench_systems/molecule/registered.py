"""Molecules that are registered as systems, each a folder with ``molecule.yaml`` and a certified reference."""

from __future__ import annotations

from pathlib import Path

from cgbench_systems.molecule.definition import read_definition
from cgbench_systems.molecule.system import Molecule

__all__ = ["RegisteredMolecule"]


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
