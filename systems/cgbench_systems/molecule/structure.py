"""Structures from PDB files, checked: one molecule, complete, without anything that would have to be guessed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import app, unit

from cgbench.errors import UserError, choices
from cgbench_systems.molecule.graph import BondGraph

__all__ = ["Structure", "check_molecule", "create_system", "read_pdb", "read_system"]

Array = NDArray[np.float64]
WATER = ("HOH", "WAT", "SOL", "TIP3", "TIP", "H2O", "SPC")
IONS = ("NA", "CL", "K", "LI", "CS", "RB", "MG", "CA", "ZN", "NA+", "CL-", "SOD", "CLA", "POT")


@dataclass(frozen=True)
class Structure:
    """A molecule: topology and positions.

    Attributes
    ----------
    topology
        OpenMM's topology.
    positions
        ``[atoms, 3]`` in nm.
    source
        What it was read from, for messages.
    unequal
        Atoms with three hydrogens that the energy tells apart; their graph calls no such hydrogens equal.
    """

    topology: app.Topology
    positions: Array
    source: str
    unequal: frozenset[int] = frozenset()

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Name of each atom: residue number and atom name, such as ``2:CA``."""
        return tuple(f"{atom.residue.id}:{atom.name}" for atom in self.topology.atoms())

    @cached_property
    def graph(self) -> BondGraph:
        """The bond graph."""
        atoms = list(self.topology.atoms())
        bonds = [(bond[0].index, bond[1].index) for bond in self.topology.bonds()]
        return BondGraph([atom.element.symbol for atom in atoms], bonds, self.positions, self.unequal)

    def index(self, label: str) -> int:
        """Return the index of an atom from its label.

        Raises
        ------
        UserError
            If there is none, or more than one.
        """
        found = [index for index, known in enumerate(self.labels) if known == label]
        if len(found) == 1:
            return found[0]
        residue = label.partition(":")[0]
        names = [known for known in self.labels if known.partition(":")[0] == residue]
        if found:
            raise UserError(f"{self.source} has {len(found)} atoms {label!r}: give each chain its own residue numbers")
        hint = f"choose from {choices(names)}" if names else f"its residues are {choices(self.residue_numbers())}"
        raise UserError(f"{self.source} has no atom {label!r}: {hint}")

    def residue_numbers(self) -> list[str]:
        """Numbers and names of the residues, such as ``2 (VAL)``."""
        return [f"{residue.id} ({residue.name})" for residue in self.topology.residues()]


def read_pdb(path: Path) -> Structure:
    """Read a PDB file that holds one complete molecule.

    Raises
    ------
    UserError
        If the file cannot be read, holds several models, alternate locations, water or ions, an atom without an
        element or twice, or more than one molecule.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise UserError(f"PDB file {path} cannot be read: {reason}") from error
    if text.lstrip().startswith("data_"):
        raise UserError(
            f"{path} is an mmCIF file: convert it to PDB format, for example by pdbfixer {path} --output=my.pdb"
        )
    _check_text(text, path)
    try:
        pdb = app.PDBFile(str(path))
        positions = np.array(pdb.getPositions(asNumpy=True).value_in_unit(unit.nanometer), dtype=np.float64)
    except Exception as error:  # OpenMM raises anything on a damaged file
        raise UserError(f"PDB file {path} cannot be read: {' '.join(str(error).split())}") from error
    if not np.isfinite(positions).all():
        raise UserError(f"PDB file {path}: a position is not a finite number")
    structure = Structure(pdb.topology, positions, path.name)
    check_molecule(structure)
    return structure


def _records(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if line.startswith(("ATOM  ", "HETATM")))


def _check_text(text: str, path: Path) -> None:
    """Refuse what OpenMM would decide silently."""
    models = sum(line.startswith("MODEL ") for line in text.splitlines())
    if models > 1:
        raise UserError(f"{path} holds {models} models: keep one of them in a file of its own")
    atoms = list(_records(text))
    if not atoms:
        raise UserError(f"{path} holds no atoms (no line begins with ATOM or HETATM): is it a PDB file?")
    for line in atoms:
        residue, number = line[17:20].strip(), line[22:26].strip()
        if line[16:17].strip():
            raise UserError(
                f"{path}: atom {line[12:16].strip()} of residue {number} has alternate locations: "
                "keep one of them, and leave column 17 blank"
            )
        if residue in WATER:
            raise UserError(f"{path} holds water ({residue} {number}): remove it; systems here use implicit solvent")
        if residue in IONS:
            raise UserError(f"{path} holds an ion ({residue} {number}): remove it; a system is one molecule")
    twice = Counter((line[21], line[22:27], line[12:16]) for line in atoms)
    for (_, number, name), count in twice.items():
        if count > 1:
            raise UserError(f"{path}: residue {number.strip()} has {count} atoms named {name.strip()}")


def check_molecule(structure: Structure) -> None:
    """Refuse a topology that is not one molecule.

    Raises
    ------
    UserError
        If an atom has no element, the atoms are not all connected, they are too few for a torsion, or two have the
        same residue number and name.
    """
    for atom, label in zip(structure.topology.atoms(), structure.labels, strict=True):
        if atom.element is None:
            raise UserError(f"{structure.source}: atom {label} has no element: fill columns 77-78 of its line")
    pieces = structure.graph.pieces()
    if len(pieces) == 1:
        _check_torsions_possible(structure)
        return
    single = next((piece[0] for piece in pieces if len(piece) == 1), None)
    if single is not None:
        raise UserError(f"{structure.source}: {_unbonded(structure, single)}")
    ends = ", ".join(f"{structure.labels[p[0]]}...{structure.labels[p[-1]]}" for p in pieces[:3])
    raise UserError(
        f"{structure.source} holds {len(pieces)} molecules ({ends}): keep one, or add CONECT records of missing bonds"
    )


def _check_torsions_possible(structure: Structure) -> None:
    """Refuse molecules without a torsion, and names of atoms that a torsion cannot be given by."""
    if len(structure.labels) < 4:
        raise UserError(f"{structure.source} has {len(structure.labels)} atoms: a torsion, and so a CV, needs four")
    label, count = Counter(structure.labels).most_common(1)[0]
    if count > 1:
        raise UserError(
            f"{structure.source} has {count} atoms {label}: give each residue, in all chains, a number of its own "
            "(columns 23-26) without insertion codes"
        )


def _unbonded(structure: Structure, index: int) -> str:
    """Say why an atom may have no bonds: its residue or its name is not a standard one."""
    residue = list(structure.topology.atoms())[index].residue
    if not any(structure.graph.neighbours[atom.index] for atom in residue.atoms()):
        return (
            f"residue {residue.id} ({residue.name}) has no bonds that OpenMM knows: add CONECT records, "
            "and a force field that knows it"
        )
    return (
        f"atom {structure.labels[index]} is bonded to nothing: use the standard names of the atoms of {residue.name}, "
        "or add CONECT records"
    )


def create_system(structure: Structure, force_field: Sequence[str], folder: Path) -> openmm.System:
    """Build the OpenMM system: no cutoff, no constraints.

    Parameters
    ----------
    structure
        The molecule.
    force_field
        OpenMM's names of force-field files, or paths relative to `folder`.
    folder
        Where paths start.

    Raises
    ------
    UserError
        If a file is missing, or the force field does not know a residue as it is in the structure.
    """
    files = [str(folder / name) if (folder / name).is_file() else name for name in force_field]
    try:
        forces = app.ForceField(*files)
    except Exception as error:  # a missing file is a ValueError, a broken one anything
        reason = " ".join(str(error).split())
        raise UserError(
            f"force field {', '.join(force_field)} cannot be loaded: {reason}; give OpenMM's names, such as "
            "amber96.xml and implicit/obc1.xml, or paths"
        ) from error
    try:
        return forces.createSystem(
            structure.topology, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False, removeCMMotion=False
        )
    except Exception as error:
        raise UserError(f"{structure.source}: {_template_error(structure, str(error))}") from error


def read_system(path: Path, structure: Structure) -> str:
    """Return the text of a serialised ``openmm.System``, checked against the structure that its particles belong to.

    Raises
    ------
    UserError
        If the file cannot be read, has another number of particles, or no term for a bond of the structure, as is the
        case if the atoms are in another order.
    """
    try:
        text = path.read_text(encoding="utf-8")
        system = openmm.XmlSerializer.deserialize(text)
        atoms = system.getNumParticles()
    except OSError as error:
        raise UserError(f"openmm_system {path} cannot be read: {error.strerror}") from error
    except Exception as error:  # OpenMM raises anything on a damaged file
        raise UserError(f"openmm_system {path} is no serialised system: {' '.join(str(error).split())}") from error
    if atoms != len(structure.labels):
        raise UserError(f"openmm_system {path} has {atoms} particles, the PDB file {len(structure.labels)} atoms")
    known = _bonded_pairs(system)
    for i, others in enumerate(structure.graph.neighbours):
        for j in others:
            if known is not None and frozenset((i, j)) not in known:
                raise UserError(
                    f"openmm_system {path} has no bond {structure.labels[i]} - {structure.labels[j]} of "
                    f"{structure.source}: are the atoms in the same order?"
                )
    return text


def _bonded_pairs(system: openmm.System) -> set[frozenset[int]] | None:
    """Return the pairs of particles with a harmonic bond; None if a bond may be something else."""
    forces = system.getForces()
    if system.getNumConstraints() or any(
        "Custom" in type(one).__name__ and "Bond" in type(one).__name__ for one in forces
    ):
        return None
    return {
        frozenset(one.getBondParameters(index)[:2])
        for one in forces
        if isinstance(one, openmm.HarmonicBondForce)
        for index in range(one.getNumBonds())
    }


def _template_error(structure: Structure, message: str) -> str:
    """Say in one line what OpenMM's message means, and what to do about it."""
    text = _with_numbers(" ".join(message.split()), structure)
    if len(structure.residue_numbers()) == 1 and structure.source.startswith("sequence "):
        return "the force field has no single amino acid without caps: give ACE, NME or both, such as ACE ALA NME"
    if "missing" in text and "ydrogen" in text:
        return f"{text.partition('For more')[0]}Add them, for example by pdbfixer --add-atoms=hydrogen"
    if "missing" in text or "externally bonded" in text:
        return f"{text.partition('For more')[0]}Add the missing atoms or caps, for example by pdbfixer --add-atoms=all"
    if "Multiple non-identical matching templates" in text:
        return (
            f"{text} The force field has several residues of these atoms and bonds: choose one by residueTemplates of "
            "ForceField.createSystem, serialise the openmm.System, and give it as openmm_system"
        )
    return text.partition("For more")[0].strip()


def _with_numbers(message: str, structure: Structure) -> str:
    """Replace OpenMM's count of a residue, from 0, by its number in the file."""
    residues = list(structure.topology.residues())

    def numbered(match: re.Match[str]) -> str:
        index = int(match[1])
        return f"residue {residues[index].id} ({match[2]})" if 0 <= index < len(residues) else match[0]

    return re.sub(r"residue (-?\d+) \((\w+)\)", numbered, message)
