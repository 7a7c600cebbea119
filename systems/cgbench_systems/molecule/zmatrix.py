"""A Z-matrix around chosen torsions, from the bond graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cgbench.errors import UserError
from cgbench_systems.molecular.internal_coordinates import Rotor, ZRow
from cgbench_systems.molecular.zmatrix_checks import STRAIGHT
from cgbench_systems.molecule.graph import BondGraph

__all__ = ["ZMatrix", "build_zmatrix"]

Torsion = tuple[int, int, int, int]


@dataclass(frozen=True)
class ZMatrix:
    """What `ZMatrixCoordinates` needs to know of a molecule.

    Attributes
    ----------
    reference_atoms
        Atoms ``(a, b, c)`` that are placed first; `a` is bonded to both others.
    rows
        ``(atom, i, j, k)``, every atom after those it refers to.
    cv_atoms
        Atoms whose dihedrals are the collective variables, in their order.
    free_atoms
        Atoms whose dihedrals turn about a bond that rotates.
    rotors
        Groups of three equal hydrogens.
    """

    reference_atoms: tuple[int, int, int]
    rows: tuple[ZRow, ...]
    cv_atoms: tuple[int, ...]
    free_atoms: tuple[int, ...]
    rotors: tuple[Rotor, ...]


def build_zmatrix(
    graph: BondGraph,
    torsions: Sequence[Torsion],
    names: Sequence[str],
    positions: NDArray[np.float64],
    centre: int | None = None,
    labels: Sequence[str] | None = None,
) -> ZMatrix:
    """Place all atoms outwards from the middle of the molecule, so that each chosen torsion is one dihedral.

    From the reference atoms, breadth first over the bonds. The first atom placed about a bond gets a proper torsion,
    which is the chosen one where there is one about this bond; the others get a dihedral relative to it (an improper
    one, which is nearly rigid). Heavy atoms come before hydrogens.

    Parameters
    ----------
    graph
        Bond graph of the molecule.
    torsions, names
        Atoms of the collective variables and what they are called in messages.
    positions
        A configuration ``[atoms, 3]`` without straight angles where that can be avoided.
    centre
        Atom to begin with; by default one of the bond of the middle torsion.
    labels
        What the atoms are called in messages; by default their numbers, from 0.

    Raises
    ------
    UserError
        If a torsion is not along bonds, two torsions turn about the same bond, or an angle that a dihedral needs is
        straight.
    """
    _check_torsions(graph, torsions, names)
    start = _reference_atoms(graph, torsions, centre)
    builder = _Builder(graph, {frozenset(t[1:3]): t for t in torsions}, positions, start, labels)
    builder.run()
    cv_atoms = tuple(builder.cv_atom(torsion, name) for torsion, name in zip(torsions, names, strict=True))
    return ZMatrix(start, tuple(builder.rows), cv_atoms, tuple(builder.free), tuple(builder.rotors))


def _check_torsions(graph: BondGraph, torsions: Sequence[Torsion], names: Sequence[str]) -> None:
    about: dict[frozenset[int], str] = {}
    for (a, b, c, d), name in zip(torsions, names, strict=True):
        if len({a, b, c, d}) < 4 or not (
            b in graph.neighbours[a] and c in graph.neighbours[b] and d in graph.neighbours[c]
        ):
            raise UserError(f"{name}: the four atoms of a dihedral must be different and bonded one after the other")
        bond = frozenset((b, c))
        if bond in graph.ring_bonds:
            raise UserError(f"{name}: the bond in its middle is part of a ring; rings cannot be collective variables")
        if bond in about:
            raise UserError(f"{name} and {about[bond]} turn about the same bond: keep one of them")
        about[bond] = name


def _reference_atoms(graph: BondGraph, torsions: Sequence[Torsion], centre: int | None) -> tuple[int, int, int]:
    """Three bonded atoms in the middle, heavy ones, along a chosen torsion where there is one."""
    if torsions:
        first, second = torsions[(len(torsions) - 1) // 2], torsions[len(torsions) // 2]
        shared = set(first[1:3]) & set(second[1:3]) if first != second else set()
        a = centre if centre is not None else min(shared) if shared else second[1]
        bonded = [t for t in (first, second) if a in t[1:3]]
        ends = [t[2] if t[1] == a else t[1] for t in bonded]
    else:
        a = centre if centre is not None else _middle(graph)
        ends = []
    heavy = sorted(graph.neighbours[a], key=lambda j: (j not in ends, graph.is_hydrogen(j), j))
    if len(heavy) < 2:
        raise UserError("the molecule is too small: a Z-matrix needs an atom with two neighbours")
    return a, heavy[0], heavy[1]


def _middle(graph: BondGraph) -> int:
    """The atom with two heavy neighbours that is nearest to all others."""

    def distance(atom: int) -> int:
        seen, layer, total, depth = {atom}, [atom], 0, 0
        while layer:
            depth += 1
            layer = sorted({j for i in layer for j in graph.neighbours[i]} - seen)
            seen |= set(layer)
            total += depth * len(layer)
        return total

    inner = [i for i in range(len(graph)) if sum(not graph.is_hydrogen(j) for j in graph.neighbours[i]) >= 2]
    return min(inner or range(len(graph)), key=distance)


class _Builder:
    """Places atoms one after the other."""

    def __init__(
        self,
        graph: BondGraph,
        chosen: dict[frozenset[int], Torsion],
        positions: NDArray[np.float64],
        start: tuple[int, int, int],
        labels: Sequence[str] | None,
    ) -> None:
        self.graph, self.chosen, self.positions, self.start = graph, chosen, positions, start
        self.labels = labels
        self.placed = list(start)
        self.rows: list[ZRow] = []
        self.free: list[int] = []
        self.rotors: list[Rotor] = []
        self._first: dict[tuple[int, int], int] = {}  # the first atom placed at `i` about the bond j-i

    def run(self) -> None:
        a, b, c = self.start
        self._check_straight(b, a, c)
        self._about(a, b, c, improper=True)
        for i, j, k in ((b, a, c), (c, a, b)):
            self._about(i, j, k)
        for atom in iter(self._next, None):
            i, j, k = atom
            self._about(i, j, k)

    def _next(self) -> tuple[int, int, int] | None:
        """The earliest placed atom with neighbours that are not placed, with a bond and a third atom behind it."""
        here = set(self.placed)
        for i in self.placed:
            if set(self.graph.neighbours[i]) <= here:
                continue
            for row in self.rows:
                if row[0] == i:
                    return i, row[1], row[2]
        return None

    def _about(self, i: int, j: int, k: int, improper: bool = False) -> None:
        """Place all neighbours of `i` that are not placed yet; `j` is bonded to `i`, and `k` to `j` (or to `i`)."""
        here = set(self.placed)
        torsion = self.chosen.get(frozenset((i, j)))
        wanted = set(torsion or ())
        children = [p for p in self.graph.neighbours[i] if p not in here]
        children.sort(key=lambda p: (p not in wanted, self.graph.is_hydrogen(p), p))
        sibling: int | None = k if improper else None
        for p in children:
            if sibling is not None:
                self._add(p, i, j, sibling)
                continue
            third = next(iter(wanted & set(self.graph.neighbours[j]) - {i}), k)
            self._add(p, i, j, third if third in here else k)
            sibling = p
            self._first[j, i] = p
            if torsion is None and self.graph.rotates(i, j) and i not in {atom for atom, _ in self.graph.rotors}:
                self.free.append(p)
        self._note_rotor(i)

    def _add(self, p: int, i: int, j: int, k: int) -> None:
        for end, corner, other in ((p, i, j), (i, j, k) if k in self.graph.neighbours[j] else (k, i, j)):
            self._check_straight(end, corner, other)
        self.rows.append((p, i, j, k))
        self.placed.append(p)

    def _check_straight(self, end: int, corner: int, other: int) -> None:
        u, v = self.positions[end] - self.positions[corner], self.positions[other] - self.positions[corner]
        angle = np.arctan2(np.linalg.norm(np.cross(u, v)), u @ v)
        if min(angle, np.pi - angle) < STRAIGHT:
            numbers = f"{end}, {corner} and {other} (from 0)"
            atoms = ", ".join(self.labels[atom] for atom in (end, corner, other)) if self.labels else numbers
            raise UserError(
                f"the atoms {atoms} are on a straight line: no dihedral can be "
                "measured across them; molecules with linear groups are not supported"
            )

    def _note_rotor(self, i: int) -> None:
        """Note the three equal hydrogens of `i`, unless their torsion is a collective variable."""
        for atom, hydrogens in self.graph.rotors:
            if atom != i:
                continue
            rows = [row for row in self.rows if row[1] == i and row[0] in hydrogens]
            mine = [row[0] for row in rows]
            if len(mine) == 3 and frozenset((i, rows[0][2])) not in self.chosen:
                self.rotors.append(Rotor(mine[0], (mine[1], mine[2])))

    def cv_atom(self, torsion: Torsion, name: str) -> int:
        """The atom whose dihedral is a chosen torsion."""
        for row in self.rows:
            if row in (torsion, torsion[::-1]):
                return row[0]
        raise UserError(
            f"{name} cannot be one dihedral of a Z-matrix together with the others: "
            "choose other atoms for the torsion about the same bond"
        )
