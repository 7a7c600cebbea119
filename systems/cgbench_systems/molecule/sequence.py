"""Structures from a sequence: an extended backbone, completed by PDBFixer."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from openmm import app, unit

from cgbench import native
from cgbench.errors import UserError, choices
from cgbench.storage.files import write_atomically

__all__ = ["build_peptide"]

Array = NDArray[np.float64]
RESIDUES = (
    *("ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIS", "ILE"),
    *("LEU", "LYS", "MET", "PHE", "PRO", "SER", "THR", "TRP", "TYR", "VAL"),
)
# protonation states other than that at pH 7, by the names of AMBER: the residue, and OpenMM's name of the variant
VARIANTS = {
    "ASH": ("ASP", "ASH"),
    "GLH": ("GLU", "GLH"),
    "HID": ("HIS", "HID"),
    "HIE": ("HIS", "HIE"),
    "HIP": ("HIS", "HIP"),
    "LYN": ("LYS", "LYN"),
}
PHI, PSI, OMEGA = np.radians([-120.0, 140.0, 180.0])
PHI_PROLINE = np.radians(-65.0)  # that the ring closes with
# bond lengths (angstrom) and angles (degrees) of a peptide backbone: Engh & Huber, Acta Cryst. A 47, 392 (1991)
N_CA, CA_C, C_N, C_O = 1.458, 1.525, 1.329, 1.231
N_CA_C, CA_C_N, C_N_CA, CA_C_O = np.radians([111.2, 116.2, 121.7, 120.8])
PH = 7.0
SEED = 1  # of PDBFixer's choices
LAST_LINE = "END\n"  # of a complete PDB file


def build_peptide(sequence: str) -> tuple[app.Topology, Array]:
    """Build a peptide in an extended conformation, with all hydrogens at pH 7 or as the names of residues say.

    The structure goes through the text of a PDB file, which is kept in the user's cache: PDBFixer takes seconds.

    Parameters
    ----------
    sequence
        Residue names from the N to the C terminus, separated by spaces; the caps ACE and NME are allowed at the ends,
        and AMBER's names of protonation states, such as HIP, for any residue.

    Returns
    -------
    topology, positions
        OpenMM's topology, and positions ``[atoms, 3]`` in nm. They are not minimised.

    Raises
    ------
    UserError
        If the sequence has an unknown residue, a cap inside, or no residue.
    """
    names = sequence.upper().split()
    _check(names)
    found = app.PDBFile(io.StringIO(_cached(names)))
    return found.topology, np.array(found.getPositions(asNumpy=True).value_in_unit(unit.nanometer), dtype=np.float64)


def _cached(names: Sequence[str]) -> str:
    """Return the PDB file of a peptide from the cache; build it if it is not there, and keep it where that works."""
    versions = [metadata.version(package) for package in ("openmm", "pdbfixer")]
    key = "\0".join([*names, *versions, Path(__file__).read_text(encoding="utf-8")])
    name = f"{'-'.join(names)[:60].lower()}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.pdb"
    paths = [folder.parent / "peptides" / name for folder in native.cache_folders()]
    for path in paths:
        with suppress(OSError, UnicodeDecodeError):
            native.make_cache_folder(path.parent)
            text = path.read_text(encoding="utf-8")
            if text.endswith(LAST_LINE):
                return text
    text = _peptide_pdb(names)
    for path in paths:
        with suppress(OSError):  # a read-only or full folder: the next one, or none
            native.make_cache_folder(path.parent)
            write_atomically(path, text.encode())
            break
    return text


def _peptide_pdb(names: Sequence[str]) -> str:
    """Complete the backbone by PDBFixer, and return the peptide as a PDB file."""
    from pdbfixer import PDBFixer

    fixer = PDBFixer(pdbfile=io.StringIO(_backbone_pdb([VARIANTS.get(name, (name,))[0] for name in names])))
    fixer.missingResidues = {}
    fixer.findNonstandardResidues()
    fixer.findMissingAtoms()
    if names[-1] == "NME":
        fixer.missingTerminals = {}
    fixer.addMissingAtoms(seed=SEED)
    with _seeded():
        if any(name in VARIANTS for name in names):
            built = app.Modeller(fixer.topology, fixer.positions)
            built.addHydrogens(pH=PH, variants=[VARIANTS.get(name, (name, None))[1] for name in names])
        else:
            fixer.addMissingHydrogens(PH)
            built = fixer
    text = io.StringIO()
    app.PDBFile.writeFile(built.topology, built.positions, text, keepIds=True)
    return text.getvalue()


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed Python's global generator, from which OpenMM takes first positions of hydrogens, and restore it."""
    state = random.getstate()
    random.seed(SEED)
    try:
        yield
    finally:
        random.setstate(state)


def _check(names: Sequence[str]) -> None:
    inner = names[(names[:1] == ["ACE"]) : len(names) - (names[-1:] == ["NME"])]
    if not inner:
        raise UserError("sequence: give at least one amino acid between the caps, such as ACE ALA NME")
    for name in inner:
        if name not in (*RESIDUES, *VARIANTS):
            known = f"choose from {choices((*RESIDUES, *VARIANTS))}"
            hint = f"the cap {name} belongs at an end" if name in ("ACE", "NME") else known
            raise UserError(f"sequence: {name!r} is not an amino acid that can be built here: {hint}")


def _place(a: Array, b: Array, c: Array, distance: float, angle: float, torsion: float) -> Array:
    """Place a point at a distance from `c`, an angle at `c` to `b`, and a torsion about `b`-`c` to `a`."""
    axis = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, axis)
    normal /= np.linalg.norm(normal)
    side = np.cross(normal, axis)
    along, across = -np.cos(angle), np.sin(angle)
    return np.asarray(c + distance * (along * axis + across * (np.cos(torsion) * side + np.sin(torsion) * normal)))


def _proline(nitrogen: Array, alpha: Array, carbonyl: Array) -> list[tuple[str, Array]]:
    """Return the carbons of proline's ring, nearly flat; PDBFixer would put them into the residue before."""
    delta = _place(carbonyl, alpha, nitrogen, 1.47, np.radians(112.0), PHI_PROLINE + np.pi)
    beta = _place(delta, nitrogen, alpha, 1.53, np.radians(103.0), np.radians(-5.0))
    gamma = _place(nitrogen, alpha, beta, 1.49, np.radians(104.0), np.radians(25.0))
    return [("CB", beta), ("CG", gamma), ("CD", delta)]


def _backbone_pdb(names: Sequence[str]) -> str:
    """Write the heavy atoms of an extended backbone, caps and the rings of prolines included, as a PDB file."""
    alphas = [{"ACE": "CH3", "NME": "C"}.get(name, "CA") for name in names]
    before = np.array([-0.5, 1.4, 0.0])  # where the N of a first residue is; an acetyl cap has none
    alpha, carbonyl = np.zeros(3), np.array([CA_C, 0.0, 0.0])
    atoms: list[tuple[int, str, Array]] = []
    for index, name in enumerate(names):
        if index:
            nitrogen = _place(before, alpha, carbonyl, C_N, CA_C_N, PSI)
            atoms.append((index, "N", nitrogen))
            last_alpha, last_carbonyl = alpha, carbonyl
            alpha = _place(last_alpha, last_carbonyl, nitrogen, N_CA, C_N_CA, OMEGA)
            carbonyl = _place(last_carbonyl, nitrogen, alpha, CA_C, N_CA_C, PHI_PROLINE if name == "PRO" else PHI)
            before = nitrogen
        elif name != "ACE":
            atoms.append((0, "N", before))
        if name == "PRO":
            atoms += [(index, atom, place) for atom, place in _proline(before, alpha, carbonyl)]
        atoms.append((index, alphas[index], alpha))
        if name != "NME":
            atoms.append((index, "C", carbonyl))
            atoms.append((index, "O", _place(before, alpha, carbonyl, C_O, CA_C_O, PSI + np.pi)))
    lines = [
        f"ATOM  {serial:5d}  {atom:<3s} {names[residue]:3s} A{residue + 1:4d}    "
        f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           {atom[0]}"
        for serial, (residue, atom, (x, y, z)) in enumerate(atoms, 1)
    ]
    return "\n".join([*lines, "TER", "END", ""])
