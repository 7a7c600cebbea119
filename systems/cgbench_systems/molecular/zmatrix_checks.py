"""Checks of a Z-matrix: every atom is placed exactly once, and the reference configuration has no straight angle."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["STRAIGHT", "RotorAtoms", "check_zmatrix"]

STRAIGHT = math.radians(10.0)  # an angle that is nearer to 0 or 180 degrees cannot carry a dihedral
COINCIDENT = 1e-6  # nm


class RotorAtoms(Protocol):
    """The atoms of a rotor."""

    @property
    def first(self) -> int:
        """The atom whose torsion turns the rotor."""

    @property
    def others(self) -> tuple[int, int]:
        """The atoms placed relative to the first."""


def check_zmatrix(
    reference_atoms: Sequence[int],
    rows: Sequence[Sequence[int]],
    cv_atoms: Sequence[int],
    periodic_atoms: Sequence[int],
    rotors: Sequence[RotorAtoms],
    reference: NDArray[np.float64],
) -> None:
    """Check the definition of a Z-matrix; parameters are those of `ZMatrixCoordinates`.

    Raises
    ------
    ValueError
        If an atom is out of range, repeated, placed twice, placed before an atom it refers to, or not placed; if the
        dihedral of an atom has no row or more than one role; or if the atoms that define an angle or dihedral coincide
        or are on a straight line.
    """
    if reference.ndim != 2 or reference.shape[1] != 3 or not np.isfinite(reference).all():
        raise ValueError(f"the reference configuration must be finite and [atoms, 3], not {list(reference.shape)}")
    _check_atoms("reference atoms", reference_atoms, 3, len(reference))
    for row in rows:
        _check_atoms(_row(row), row, 4, len(reference))
    _check_order(reference_atoms, rows)
    placed = {*reference_atoms, *(row[0] for row in rows)}
    if missing := [atom for atom in range(len(reference)) if atom not in placed]:
        raise ValueError(f"the Z-matrix has no row for {_named(missing)}")
    _check_roles({row[0]: row for row in rows}, cv_atoms, periodic_atoms, rotors)
    a, b, c = reference_atoms
    _check_angle(reference, (b, a, c), f"reference atoms {tuple(reference_atoms)}")
    for row in rows:
        p, i, j, k = row
        _check_angle(reference, (p, i, j), _row(row))
        _check_plane(reference, (i, j, k), _row(row))


def _row(row: Sequence[int]) -> str:
    return f"Z-matrix row of atom {row[0]}, {tuple(row)}" if len(row) else "Z-matrix row ()"


def _named(atoms: Sequence[int]) -> str:
    return f"atom{'s' * (len(atoms) != 1)} {', '.join(map(str, atoms))}"


def _check_atoms(where: str, atoms: Sequence[int], count: int, total: int) -> None:
    """Check that the atoms are `count` different numbers from 0 to `total` - 1."""
    if len(atoms) != count:
        raise ValueError(f"{where}: {count} atoms are needed, not {len(atoms)}")
    for atom in atoms:
        try:
            number = operator.index(atom)
        except TypeError:
            raise ValueError(f"{where}: {atom!r} is not the number of an atom") from None
        if not 0 <= number < total:
            raise ValueError(f"{where}: there is no atom {atom}; the {total} atoms are numbered from 0")
    if repeated := sorted({atom for atom in atoms if list(atoms).count(atom) > 1}):
        raise ValueError(f"{where}: {_named(repeated)} repeated; all {count} must be different")


def _check_order(reference_atoms: Sequence[int], rows: Sequence[Sequence[int]]) -> None:
    placed = set(reference_atoms)
    for row in rows:
        atom, *others = row
        missing = [other for other in others if other not in placed]
        if atom in placed:
            first = "is a reference atom" if atom in reference_atoms else "has another row"
            raise ValueError(f"{_row(row)}: the atom is placed twice, it {first} already")
        if missing:
            raise ValueError(f"{_row(row)}: the atom is placed before {_named(missing)}, which it refers to")
        placed.add(atom)


def _check_roles(
    row_of: dict[int, Sequence[int]],
    cv_atoms: Sequence[int],
    periodic_atoms: Sequence[int],
    rotors: Sequence[RotorAtoms],
) -> None:
    """Check that each dihedral with a role exists and has only one, and that rotors are built as they must be."""
    roles = [(f"cv_atoms {tuple(cv_atoms)}", atom) for atom in cv_atoms]
    roles += [(f"periodic_atoms {tuple(periodic_atoms)}", atom) for atom in periodic_atoms]
    for rotor in rotors:
        atoms = (rotor.first, *rotor.others)
        roles += [(f"rotor {atoms}", atom) for atom in atoms]
    taken: dict[int, str] = {}
    for role, atom in roles:
        if atom not in row_of:
            raise ValueError(f"{role}: atom {atom!r} has no row, and so no dihedral")
        if atom in taken:
            where = "twice" if taken[atom] == role else f"and also in {taken[atom]}"
            raise ValueError(f"{role}: atom {atom} is in it {where}; a dihedral has one role")
        taken[atom] = role
    for rotor in rotors:
        _, i, j, _ = row_of[rotor.first]
        for other in rotor.others:
            wanted = (other, i, j, rotor.first)
            if tuple(row_of[other]) != wanted:
                raise ValueError(
                    f"rotor {(rotor.first, *rotor.others)}: the row of atom {other} must be {wanted}, relative to "
                    f"atom {rotor.first}, not {tuple(row_of[other])}"
                )


def _angle(x: NDArray[np.float64], end: int, corner: int, other: int, where: str) -> float:
    u, v = x[end] - x[corner], x[other] - x[corner]
    for atom, arm in ((end, u), (other, v)):
        if float(np.linalg.norm(arm)) < COINCIDENT:
            raise ValueError(f"{where}: atoms {atom} and {corner} coincide in the reference configuration")
    return float(np.arctan2(np.linalg.norm(np.cross(u, v)), u @ v))


def _check_angle(x: NDArray[np.float64], atoms: tuple[int, int, int], where: str) -> None:
    """Check an angle that is a coordinate."""
    angle = _angle(x, *atoms, where)
    if min(angle, math.pi - angle) < STRAIGHT:
        raise _straight(where, atoms, angle)


def _check_plane(x: NDArray[np.float64], atoms: tuple[int, int, int], where: str) -> None:
    """Check that three atoms define the plane that a dihedral is measured from: no angle between them is straight."""
    i, j, k = atoms
    for corner in ((i, j, k), (j, i, k), (i, k, j)):
        angle = _angle(x, *corner, where)
        if math.pi - angle < STRAIGHT:
            raise _straight(where, corner, angle)


def _straight(where: str, atoms: tuple[int, int, int], angle: float) -> ValueError:
    return ValueError(
        f"{where}: atoms {', '.join(map(str, atoms))} are on a straight line in the reference configuration (angle "
        f"{math.degrees(angle):.3g} degrees); angles must be at least {math.degrees(STRAIGHT):.0f} degrees from 0 and "
        "180"
    )
