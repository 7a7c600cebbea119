"""What the harness calls for files that define a molecule (entry point group ``cgbench.system_files``)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from openmm import app, unit

from cgbench.drawing.backend import attempt
from cgbench.errors import UserError, choices
from cgbench_systems.molecule.definition import HOTTEST
from cgbench_systems.molecule.describe import definition_text, describe_structure, describe_system, draw_system
from cgbench_systems.molecule.sequence import build_peptide
from cgbench_systems.molecule.structure import Structure, check_molecule, create_system, read_pdb, read_system
from cgbench_systems.molecule.system import Molecule, load_molecule

__all__ = ["load", "new", "show"]

PICTURES = (".png", ".pdf", ".svg")


def load(path: Path) -> type[Molecule]:
    """Return the class of the system that a file defines."""
    return load_molecule(path)


def new(
    pdb: str | None,
    sequence: str | None,
    force_field: Sequence[str],
    temperature: float,
    out: Path,
    openmm_system: str | None = None,
) -> tuple[str, list[str]]:
    """Return the text of a new file, and lines on what was found in the molecule.

    Raises
    ------
    UserError
        If the structure cannot be read or built, the force field does not know it, or it has no torsion to choose.
    """
    if (pdb is None) == (sequence is None):
        raise UserError("give either a PDB file or --sequence, one of the two")
    if (openmm_system is None) == (not force_field):
        raise UserError("give either --force-field or --openmm-system, one of the two")
    if openmm_system is not None and pdb is None:
        raise UserError("--openmm-system needs the PDB file that its atoms belong to")
    if not 0 < temperature <= HOTTEST:
        raise UserError(f"--temperature must be above 0 and at most {HOTTEST:g} K, not {temperature:g} K")
    if pdb is not None:
        structure = read_pdb(Path(pdb))
        origin = f"pdb: {_quoted(_relative(pdb, out))}"
    else:
        structure = Structure(*build_peptide(str(sequence)), f"sequence {sequence}")
        check_molecule(structure)
        origin = f"sequence: {' '.join(str(sequence).upper().split())}"
    if openmm_system is not None:
        read_system(Path(openmm_system), structure)
        forces = f"openmm_system: {_quoted(_relative(openmm_system, out))}"
    else:
        names = [_relative(name, out) if Path(name).is_file() else name for name in force_field]
        create_system(structure, names, out.resolve().parent)
        forces = f"force_field: [{', '.join(_quoted(name) for name in names)}]"
    return definition_text(structure, origin, forces, temperature), describe_structure(structure)


def _relative(path: str, out: Path) -> str:
    """Return a path from the folder of the new file."""
    return os.path.relpath(Path(path).resolve(), out.resolve().parent)


def _quoted(text: str) -> str:
    """Return a name as YAML reads it back: in quotes where it holds more than letters, digits and ``._/+-``."""
    return text if re.fullmatch(r"[A-Za-z0-9._/][A-Za-z0-9._/+-]*", text) else json.dumps(text, ensure_ascii=False)


def show(path: Path, picture: Path | None, pdb: Path | None = None) -> list[str]:
    """Return the description of a system; draw it, and write its initial configuration, where this is asked for.

    Raises
    ------
    UserError
        If the file is wrong, or the picture or the PDB file cannot be written.
    """
    if picture is not None and picture.suffix not in PICTURES:
        raise UserError(f"--out {picture}: choose a picture of type {choices(PICTURES)}")
    system = load_molecule(path)(engine="openmm")  # which any force field has
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
    if pdb is not None:
        try:
            with pdb.open("w", encoding="utf-8") as file:
                positions = system.initial_configuration().cpu().numpy() * unit.nanometer
                app.PDBFile.writeFile(system.topology(), positions, file, keepIds=True)
        except OSError as error:
            raise UserError(f"cannot write {pdb}: {error.strerror}") from error
    return describe_system(system)
