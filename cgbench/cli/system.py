"""``cgbench system``: molecules from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

__all__ = ["command"]


@click.group("system", help="Write, and explain, the file that makes a molecule a system.")
def command() -> None:
    """Group of the commands on a molecule's file."""


def _loader(suffix: str) -> Any:
    """Return the plugin that makes systems from files of this suffix."""
    from cgbench.errors import UserError, choices
    from cgbench.running.registry import file_formats

    found = file_formats()
    if suffix.removeprefix(".") not in found:
        ending = f"from {suffix} files" if suffix else "from files without an ending"
        raise UserError(f"no installed package makes systems {ending}: use {choices(found)}")
    return found[suffix.removeprefix(".")].load()


def _file_of(system: str) -> Path:
    """Return the file of a registered system, or the path that was given."""
    from cgbench.errors import UserError
    from cgbench.running.registry import load

    if Path(system).suffix:
        return Path(system)
    file = getattr(load("system", system), "file", None)
    if not isinstance(file, Path):
        raise UserError(f"system {system} is made by code, without a file: see cgbench list")
    return file


@command.command("new", help="Write a system's file for a PDB file or a sequence, with the torsions that were found.")
@click.argument("pdb", required=False)
@click.option("--sequence", help='Residues to build a peptide from, such as "ACE VAL NME", in place of a PDB file.')
@click.option("--force-field", multiple=True, help="OpenMM's name of a force-field file, or a path. Repeatable.")
@click.option("--openmm-system", help="Serialised openmm.System of the PDB file's atoms, in place of a force field.")
@click.option("--temperature", type=float, default=300.0, show_default=True, help="In kelvin.")
@click.option("--out", required=True, help="File to write, such as my.yaml.")
def new(
    pdb: str | None,
    sequence: str | None,
    force_field: tuple[str, ...],
    openmm_system: str | None,
    temperature: float,
    out: str,
) -> int:
    """Write the file, and print what was found in the molecule."""
    from cgbench.errors import UserError

    path = Path(out)
    if path.exists():
        raise UserError(f"{path} exists already: remove it, or give another --out")
    text, found = _loader(path.suffix).new(pdb, sequence, force_field, temperature, path, openmm_system)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another --out") from error
    print("\n".join(found))
    print(f"{path} written; choose its cvs, then: cgbench system show {path}")
    return 0


@command.command("show", help="Explain the file of SYSTEM: torsions, coordinates and the state space; --out draws it.")
@click.argument("system")
@click.option("--out", help="Picture to write, .png or .pdf.")
@click.option("--pdb", help="PDB file to write: the initial configuration, with the atoms in the order of the system.")
def show(system: str, out: str | None, pdb: str | None) -> int:
    """Print the description, and draw the molecule; SYSTEM is a file, or the name of a system that has one."""
    from cgbench.running.plugins import construct

    path = _file_of(system)
    loader, picture = _loader(path.suffix), None if out is None else Path(out)
    structure = None if pdb is None else Path(pdb)
    for line in construct(lambda: loader.show(path, picture, structure), "system", system):
        print(line)
    for written in (out, pdb):
        if written is not None:
            print(f"{written} written")
    return 0
