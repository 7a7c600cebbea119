"""Torsions of a molecule by their IUPAC names (phi, psi, omega, chi1 ...), as mdtraj finds them."""

from __future__ import annotations

import mdtraj
from mdtraj.geometry import dihedral as geometry

from cgbench.errors import UserError, choices
from cgbench_systems.molecule.structure import Structure

__all__ = ["named_torsions", "torsion"]

Torsion = tuple[int, int, int, int]
KINDS = ("phi", "psi", "omega", "chi1", "chi2", "chi3", "chi4", "chi5")
OWNER = {"phi": 1, "omega": 0}  # which of the four atoms names the residue; the second one for all others


def named_torsions(structure: Structure) -> dict[str, Torsion]:
    """Find all torsions with an IUPAC name, as ``phi 2``: kind and residue number."""
    topology = mdtraj.Topology.from_openmm(structure.topology)
    residues = [atom.residue for atom in structure.topology.atoms()]
    found: dict[str, Torsion] = {}
    for kind in KINDS:
        for row in getattr(geometry, f"indices_{kind}")(topology):
            a, b, c, d = (int(index) for index in row)
            number = residues[(a, b)[OWNER.get(kind, 1)]].id
            found[f"{kind} {number}"] = (a, b, c, d)
    return found


def torsion(structure: Structure, name: str) -> Torsion:
    """Return the atoms of a torsion with an IUPAC name.

    Raises
    ------
    UserError
        If the molecule has no torsion of this name.
    """
    known = named_torsions(structure)
    key = " ".join(name.lower().split())
    if key not in known:
        raise UserError(
            f"{structure.source} has no torsion {name!r}: choose from {choices(known)}, "
            'or give {name: ..., dihedral: ["2:N", "2:CA", "2:CB", "2:CG1"]}'
        )
    return known[key]
