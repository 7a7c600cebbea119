"""What the harness calls for files that define a molecule (entry point group ``cgbench.system_files``)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cgbench.drawing.backend import attempt
from cgbench.errors import UserError, choices
from cgbench_systems.molecule.describe import definition_text, describe_structure, describe_system, draw_system
from cgbench_systems.molecule.sequence import build_peptide
from cgbench_systems.molecule.structure import Structure, check_molecule, create_system, read_pdb
from cgbench_systems.molecule.system import Molecule, load_molecule

__all__ = ["load", "new", "show"]

PICTURES = (".png", ".pdf", ".svg")


def load(path: Path) -> type[Molecule]:
    """Return the class of the system that a file defines."""
    return load_molecule(path)


def new(
    pdb: str | None, sequence: str | None, force_field: Sequence[str], temperature: float, out: Path
) -> tuple[str, list[str]]:
    """Return the text of a new file, and lines on what was found in the molecule.

    Raises
    ------
    UserError
        If the structure cannot be read or built, or the force field does not know it.
    """
    if (pdb is None) == (sequence is None):
        raise UserError("give either a PDB file or --sequence, one of the two")
    if temperature <= 0:
        raise UserError(f"--temperature must be positive, not {temperature:g} K")
    if pdb is not None:
        structure = read_pdb(Path(pdb))
        origin = f"pdb: {os.path.relpath(Path(pdb).resolve(), out.resolve().parent)}"
    else:
        structure = Structure(*build_peptide(str(sequence)), f"sequence {sequence}")
        check_molecule(structure)
        origin = f"sequence: {' '.join(str(sequence).upper().split())}"
    create_system(structure, force_field, out.resolve().parent)
    return definition_text(structure, origin, force_field, temperature), describe_structure(structure)


def show(path: Path, picture: Path | None) -> list[str]:
    """Return the description of a system, and draw it where a picture is asked for.

    Raises
    ------
    UserError
        If the file is wrong, or the picture cannot be written.
    """
    if picture is not None and picture.suffix not in PICTURES:
        raise UserError(f"--out {picture}: choose a picture of type {choices(PICTURES)}")
    system = load_molecule(path)()
    if picture is not None:
        target = picture

        def draw() -> None:
            try:
                draw_system(system, target)
            except OSError as error:
                raise UserError(f"cannot write {target}: {error.strerror}") from error

        problem = attempt(draw)
        if problem is not None:
            raise UserError(f"{picture} cannot be drawn: {problem}")
    return describe_system(system)
