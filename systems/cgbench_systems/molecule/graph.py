"""The bond graph of a molecule: rings, equal atoms, stereocentres, amide bonds, rotors and free torsions."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["AmideBond", "BondGraph", "FreeTorsion", "Stereocentre"]

Bond = tuple[int, int]
# nm, between the lengths of a double and of a single bond of two atoms that both could have a double one (0.134 and
# 0.146 for two carbons, 0.128 and 0.138 for C and N): Allen et al., J. Chem. Soc. Perkin Trans. 2, S1 (1987)
LONGEST_DOUBLE = {("C", "C"): 0.141, ("C", "N"): 0.133, ("N", "N"): 0.133}
UNSATURATED = {"C": 3, "N": 2}  # neighbours of an atom with one double bond


@dataclass(frozen=True)
class Stereocentre:
    """An atom with four different substituents; the sign of the triple product of three of them is its chirality."""

    atom: int
    neighbours: tuple[int, int, int]


@dataclass(frozen=True)
class AmideBond:
    """An amide bond and the torsion that says whether it is trans or cis."""

    carbon: int
    nitrogen: int
    torsion: tuple[int, int, int, int]


@dataclass(frozen=True)
class DoubleBond:
    """A double bond with two configurations, and the torsion that says which one it has."""

    bond: Bond
    torsion: tuple[int, int, int, int]


@dataclass(frozen=True)
class FreeTorsion:
    """A single bond that rotates, and the number of wells that its two ends let expect."""

    bond: Bond
    wells: int


class BondGraph:
    """Atoms and bonds of one molecule.

    Parameters
    ----------
    elements
        Element symbol of each atom.
    bonds
        Pairs of atoms.
    positions
        Configuration ``[atoms, 3]`` in nm whose bond lengths tell double bonds from single ones; without it, all bonds
        between planar atoms other than amide bonds count as single.
    unequal
        Atoms that are no rotors although they have three hydrogens.
    """

    def __init__(
        self,
        elements: Sequence[str],
        bonds: Iterable[Bond],
        positions: NDArray[np.float64] | None = None,
        unequal: frozenset[int] = frozenset(),
    ) -> None:
        self.elements = tuple(elements)
        self.positions = positions
        self.unequal = unequal
        self.neighbours: list[list[int]] = [[] for _ in self.elements]
        for i, j in bonds:
            self.neighbours[i].append(j)
            self.neighbours[j].append(i)
        for others in self.neighbours:
            others.sort()

    def __len__(self) -> int:
        return len(self.elements)

    def is_hydrogen(self, atom: int) -> bool:
        """Whether an atom is a hydrogen."""
        return self.elements[atom] == "H"

    def pieces(self) -> list[list[int]]:
        """Return the connected parts, each as a sorted list of atoms."""
        left, found = set(range(len(self))), []
        while left:
            part = self._reached({min(left)}, without=None)
            found.append(sorted(part))
            left -= part
        return found

    def _reached(self, start: set[int], without: Bond | None) -> set[int]:
        """Atoms that can be reached from `start` without passing over a bond."""
        seen, queue = set(start), deque(start)
        while queue:
            i = queue.popleft()
            for j in self.neighbours[i]:
                if j not in seen and (without is None or {i, j} != set(without)):
                    seen.add(j)
                    queue.append(j)
        return seen

    @cached_property
    def ring_bonds(self) -> frozenset[frozenset[int]]:
        """Bonds that are part of a ring: the graph stays connected without them."""
        return frozenset(
            frozenset((i, j))
            for i in range(len(self))
            for j in self.neighbours[i]
            if i < j and j in self._reached({i}, without=(i, j))
        )

    @cached_property
    def classes(self) -> tuple[int, ...]:
        """Class of each atom under refinement by neighbours (Morgan; Weisfeiler-Lehman): equal atoms share one."""
        label: dict[int, tuple[object, ...]] = {
            i: (element, len(self.neighbours[i])) for i, element in enumerate(self.elements)
        }
        colour = self._numbered(label)
        while True:
            refined = self._numbered(
                {i: (colour[i], *sorted(colour[j] for j in self.neighbours[i])) for i in range(len(self))}
            )
            if len(set(refined)) == len(set(colour)):
                return refined
            colour = refined

    @staticmethod
    def _numbered(labels: dict[int, tuple[object, ...]]) -> tuple[int, ...]:
        order = {label: number for number, label in enumerate(sorted(set(labels.values()), key=repr))}
        return tuple(order[labels[i]] for i in range(len(labels)))

    @cached_property
    def stereocentres(self) -> tuple[Stereocentre, ...]:
        """Atoms with four neighbours of four different classes."""
        return tuple(
            Stereocentre(atom, (others[0], others[1], others[2]))
            for atom, others in enumerate(self.neighbours)
            if len(others) == 4 and len({self.classes[j] for j in others}) == 4
        )

    def _is_carbonyl(self, atom: int) -> bool:
        terminal_oxygens = [
            j for j in self.neighbours[atom] if self.elements[j] == "O" and len(self.neighbours[j]) == 1
        ]
        return self.elements[atom] == "C" and len(self.neighbours[atom]) == 3 and len(terminal_oxygens) == 1

    @cached_property
    def amide_bonds(self) -> tuple[AmideBond, ...]:
        """Bonds between a carbonyl carbon and a planar nitrogen with a heavy substituent, outside rings."""
        found = []
        for carbon in filter(self._is_carbonyl, range(len(self))):
            for nitrogen in self.neighbours[carbon]:
                if self.elements[nitrogen] != "N" or len(self.neighbours[nitrogen]) != 3:
                    continue
                heavy = [j for j in self.neighbours[nitrogen] if j != carbon and not self.is_hydrogen(j)]
                others = [j for j in self.neighbours[carbon] if j != nitrogen and self.elements[j] != "O"]
                if not heavy or not others or frozenset((carbon, nitrogen)) in self.ring_bonds:
                    continue
                found.append(AmideBond(carbon, nitrogen, (others[0], carbon, nitrogen, self._backbone_first(heavy))))
        return tuple(found)

    def is_double(self, i: int, j: int) -> bool:
        """Whether a bond outside rings is a double bond, by its ends and its length."""
        pair = tuple(sorted((self.elements[i], self.elements[j])))
        if self.positions is None or pair not in LONGEST_DOUBLE or frozenset((i, j)) in self.ring_bonds:
            return False
        if any(len(self.neighbours[atom]) != UNSATURATED[self.elements[atom]] for atom in (i, j)):
            return False
        length = float(np.linalg.norm(self.positions[i] - self.positions[j]))
        return length < LONGEST_DOUBLE[pair[0], pair[1]]

    @cached_property
    def double_bonds(self) -> tuple[DoubleBond, ...]:
        """Double bonds outside rings with a cis and a trans form: different substituents at both ends."""
        found = []
        for i in range(len(self)):
            for j in (j for j in self.neighbours[i] if i < j and self.is_double(i, j)):
                ends = [[k for k in self.neighbours[atom] if k not in (i, j)] for atom in (i, j)]
                if all(len({self.classes[k] for k in end}) == len(end) for end in ends):
                    a, d = (min(end, key=lambda k: (self.is_hydrogen(k), k)) for end in ends)
                    found.append(DoubleBond((i, j), (a, i, j, d)))
        return tuple(found)

    def _backbone_first(self, substituents: Sequence[int]) -> int:
        """Of a nitrogen's substituents (two in proline), the one that leads to a carbonyl carbon, else the first."""
        leading = [j for j in substituents if any(self._is_carbonyl(k) for k in self.neighbours[j])]
        return (leading or list(substituents))[0]

    @cached_property
    def rotors(self) -> tuple[tuple[int, tuple[int, int, int]], ...]:
        """Atoms with three equal hydrogens (methyl, ammonium), and these hydrogens."""
        found = []
        for atom, others in enumerate(self.neighbours):
            hydrogens = [j for j in others if self.is_hydrogen(j)]
            if len(hydrogens) == 3 and len(others) == 4 and atom not in self.unequal:
                found.append((atom, (hydrogens[0], hydrogens[1], hydrogens[2])))
        return tuple(found)

    def is_planar(self, atom: int) -> bool:
        """Whether an atom has three neighbours in a plane: a carbon, or a nitrogen next to such a carbon."""
        if len(self.neighbours[atom]) != 3:
            return False
        if self.elements[atom] == "C":
            return True
        return self.elements[atom] == "N" and any(
            self.elements[j] == "C" and len(self.neighbours[j]) == 3 for j in self.neighbours[atom]
        )

    def rotates(self, i: int, j: int) -> bool:
        """Whether a bond is a single bond about which its ends turn: not in a ring, not conjugated, not terminal."""
        if min(len(self.neighbours[i]), len(self.neighbours[j])) < 2 or frozenset((i, j)) in self.ring_bonds:
            return False
        if self.is_double(i, j):
            return False
        return not (self.is_planar(i) and self.is_planar(j) and "N" in (self.elements[i], self.elements[j]))

    @cached_property
    def free_torsions(self) -> tuple[FreeTorsion, ...]:
        """Bonds that rotate, rotors of three hydrogens left out."""
        turning = {atom for atom, _ in self.rotors}
        return tuple(
            FreeTorsion((i, j), self._wells(i, j))
            for i in range(len(self))
            for j in self.neighbours[i]
            if i < j and not {i, j} & turning and self.rotates(i, j)
        )

    def _wells(self, i: int, j: int) -> int:
        """Three between tetrahedral ends; two where an end is planar or an hydroxyl turns at a planar atom."""
        planar = [self.is_planar(atom) for atom in (i, j)]
        if not any(planar):
            return 3
        hydroxyl = any(self.elements[atom] in ("O", "S") and len(self.neighbours[atom]) == 2 for atom in (i, j))
        return 2 if hydroxyl or all(planar) else 6
