"""The free torsions of a molecule that are no collective variables, and starting configurations in all rotamers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from cgbench.contracts.system import System
from cgbench_systems.molecular.internal_coordinates import ZMatrixCoordinates
from cgbench_systems.molecular.reference.configurations import relaxed

__all__ = ["SideTorsions"]

POINTS = 6  # starting angles of each torsion; any well wider than 60 degrees has one
MOST_STARTS = 512  # combinations of starting angles
Torsion = tuple[int, int, int, int]


class _Dihedrals(torch.autograd.Function):
    """Dihedral angles with their gradient in closed form, which takes a third of the time of automatic differentiation.

    With bonds b1, b2, b3 along the four atoms, n1 = b1 x b2 and n2 = b2 x b3, the gradients at the outer atoms are
    -|b2| n1 / n1^2 and |b2| n2 / n2^2; those at the inner atoms follow from translation and rotation (Blondel and
    Karplus, J. Comput. Chem. 17, 1132, 1996).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        points = x.index_select(1, index).reshape(len(x), 4, -1, 3)
        bonds = points[:, 1:] - points[:, :-1]
        first, axis, last = bonds.unbind(1)
        normals = torch.linalg.cross(bonds[:, :2], bonds[:, 1:])
        normal_1, normal_2 = normals.unbind(1)
        length = axis.norm(dim=-1)
        angle = torch.atan2((first * normal_2).sum(-1) * length, (normal_1 * normal_2).sum(-1))
        ctx.save_for_backward(bonds, normals, length, index)
        ctx.atoms = x.shape[1]
        return torch.where(angle >= torch.pi, angle - 2 * torch.pi, angle)

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None]:
        bonds, normals, length, index = ctx.saved_tensors
        outer = normals * (upstream * length)[:, None, :, None] / normals.square().sum(-1, keepdim=True)
        start, end = -outer[:, 0], outer[:, 1]
        along = (bonds[:, ::2] * bonds[:, 1:2]).sum(-1, keepdim=True) / length.square()[:, None, :, None]
        before, after = along.unbind(1)
        parts = [start, after * end - (1 + before) * start, before * start - (1 + after) * end, end]
        gradient = upstream.new_zeros(len(upstream), ctx.atoms, 3)
        return gradient.index_add_(1, index, torch.cat(parts, dim=1)), None


def _dihedrals(x: torch.Tensor, atoms: Sequence[Torsion]) -> torch.Tensor:
    """Return the dihedral angles of several quadruples of atoms, ``[batch, torsions]`` in [-pi, pi)."""
    columns = [atom for column in zip(*atoms, strict=True) for atom in column]
    angles: torch.Tensor = _Dihedrals.apply(x, torch.tensor(columns, device=x.device))  # type: ignore[no-untyped-call]
    return angles


class SideTorsions:
    """Free torsions of a molecule that are no collective variables (CVs).

    They are those dihedrals of the system's Z-matrix that rotate freely and do not belong to a group of equal atoms. A
    system without such dihedrals, or without a Z-matrix, has none. Torsions that end in two equal atoms in a plane with
    the axis, such as those of a phenyl ring or a carboxylate, are left out: half a turn exchanges equal atoms, which
    changes nothing.

    Attributes
    ----------
    atoms
        Atoms of each torsion.

    Parameters
    ----------
    system
        The molecule.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        coordinates = system.coordinates
        free = coordinates.free_dihedrals if isinstance(coordinates, ZMatrixCoordinates) else ()
        found = [(position, atoms) for position, atoms in free if not self._ends_in_equal_atoms(atoms[1], atoms[2])]
        self._positions = [position for position, _ in found]
        self.atoms = tuple(atoms[::-1] for _, atoms in found)
        self._cv_atoms = self._cvs_as_torsions() if found else None

    def __len__(self) -> int:
        return len(self.atoms)

    def _ends_in_equal_atoms(self, end: int, inner: int) -> bool:
        """Whether a planar atom has two equal neighbours besides the one before it, as far as the graph is known."""
        structure = getattr(self.system, "structure", None)
        if structure is None:
            return False
        graph = structure.graph
        others = [graph.classes[j] for j in graph.neighbours[end] if j != inner]
        return len(others) == 2 and others[0] == others[1] and graph.is_planar(end)

    def _cvs_as_torsions(self) -> tuple[Torsion, ...] | None:
        """Return the atoms of the CVs if these are the torsions that the system names, so that all go in one call."""
        atoms: tuple[Torsion, ...] | None = getattr(self.system, "torsions", None)
        x = self.system.initial_configuration()[None]
        if atoms is None or not torch.allclose(_dihedrals(x, atoms), self.system.collective_variables(x)):
            return None
        return atoms

    @property
    def names(self) -> list[str]:
        """Names of the atoms of each torsion, such as ``N-CA-CB-OG``; their numbers where they have no names."""
        topology = getattr(self.system, "topology", None)
        if topology is None:
            return ["-".join(map(str, atoms)) for atoms in self.atoms]
        labels = [atom.name for atom in topology().atoms()]
        return ["-".join(labels[atom] for atom in atoms) for atoms in self.atoms]

    def angles(self, x: torch.Tensor) -> torch.Tensor:
        """Return the torsions of configurations, ``[batch, torsions]`` in [-pi, pi)."""
        return _dihedrals(x, self.atoms) if self.atoms else x.new_zeros(len(x), 0)

    def with_cvs(self, x: torch.Tensor) -> torch.Tensor:
        """Return the CVs and then the torsions of configurations, ``[batch, cvs + torsions]``."""
        if not self.atoms:
            return self.system.collective_variables(x)
        if self._cv_atoms is not None:
            return _dihedrals(x, (*self._cv_atoms, *self.atoms))
        return torch.cat([self.system.collective_variables(x), self.angles(x)], dim=1)

    def _combinations(self, count: int, seed: int) -> torch.Tensor:
        """Angles ``[combinations, torsions]``: all of a regular grid, or `count` of them at random."""
        axis = -math.pi + (np.arange(POINTS) + 0.5) * 2 * math.pi / POINTS
        if POINTS ** len(self) <= count:
            return torch.tensor(list(itertools.product(axis, repeat=len(self))), dtype=torch.float64)
        return torch.from_numpy(np.random.default_rng(seed).choice(axis, (count, len(self))))

    def starts(self, s: torch.Tensor, seed: int = 0) -> torch.Tensor:
        """Return configurations ``[batch, atoms, 3]`` at CVs ``s [batch, cvs]``, spread over all rotamers and relaxed.

        The torsions begin on a regular grid, one combination after the other; where there are more combinations than
        configurations, or than `MOST_STARTS`, they are random ones.
        """
        grid = self._combinations(min(len(s), MOST_STARTS), seed).to(s.device)
        y = torch.zeros(len(s), len(self.system.coordinates.names), dtype=torch.float64, device=s.device)
        y[:, self._positions] = grid[torch.arange(len(s), device=s.device) % len(grid)]
        return relaxed(self.system, s.double(), start=y)

    def starts_at_minimum(self, count: int, seed: int = 0) -> torch.Tensor:
        """Return `count` configurations at the CVs of the initial one, spread over all rotamers where there are any."""
        x = self.system.initial_configuration()[None]
        if not self.atoms:
            return x.repeat(count, 1, 1)
        s = self.system.collective_variables(x)
        distinct = min(count, POINTS ** len(self), MOST_STARTS)
        found = self.starts(s.repeat(distinct, 1), seed)
        return found[torch.arange(count, device=found.device) % distinct]
