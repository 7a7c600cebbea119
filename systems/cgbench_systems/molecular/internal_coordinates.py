"""Z-matrix internal coordinates of a molecule, in both directions, with analytic log-determinants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cgbench.contracts.coordinates import Coordinates
from cgbench_systems.molecular.geometry import dihedral
from cgbench_systems.molecular.zmatrix_checks import check_zmatrix

__all__ = ["Rotor", "Scales", "ZMatrixCoordinates", "ZRow"]

ZRow = tuple[int, int, int, int]
THIRD = 2 * math.pi / 3


@dataclass(frozen=True)
class Rotor:
    """Three equivalent atoms on one axis, such as the hydrogens of a methyl group.

    The first is placed by its own torsion, `others` by their dihedrals relative to it about the same axis.
    """

    first: int
    others: tuple[int, int]


@dataclass(frozen=True)
class Scales:
    """Units of the non-periodic coordinates, in nm, rad and rad."""

    distance: float
    angle: float
    dihedral: float


def _wrap(angle: torch.Tensor) -> torch.Tensor:
    """Map angles into [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


class ZMatrixCoordinates(Coordinates):
    """Bijection between configurations and (collective variables, scaled internal coordinates).

    The internal coordinates are two distances and one angle of three reference atoms, then a distance, an angle
    and a dihedral of every other atom. The dihedrals of `cv_atoms` are the collective variables ``s``. The other
    coordinates are ``y``: ``(q - q0) / scale`` relative to the reference configuration, or the angle itself where
    periodic. Rigid motion is integrated out analytically: ``ln|det dx/d(s, y)|`` is the sum of
    ``2 ln d + ln sin(theta)`` over all rows, plus ``2 ln r1 + 2 ln r2 + ln sin(theta)`` of the reference atoms,
    plus the logarithms of the scales.

    Parameters
    ----------
    reference_atoms
        Atoms ``(a, b, c)`` with the distances a-b and a-c and the angle b-a-c.
    rows
        ``(atom, i, j, k)``: distance to `i`, angle to `i`-`j`, dihedral to `i`-`j`-`k`, in any order that places
        every atom after those it refers to.
    cv_atoms
        Atoms whose dihedrals are the collective variables, in the order of these.
    periodic_atoms
        Atoms whose dihedrals rotate freely.
    reference
        Configuration ``[atoms, 3]`` that gives the origin ``q0``.
    scales
        Units of the non-periodic coordinates.
    rotors
        Groups of equivalent atoms. The torsion of the first is replaced by the mean of the three torsions, which a
        cyclic exchange of the atoms changes by exactly 120 degrees. Such exchanges, under which the energy is
        invariant, fold it into [-60, 60) degrees.

    Raises
    ------
    ValueError
        If the rows do not place every atom exactly once, a dihedral has no row or several roles, or atoms that define
        an angle are on a straight line in the reference configuration.

    Notes
    -----
    `to_cartesian` puts the first reference atom at the origin, the second on the x axis and the third in the
    xy plane. With rotors, `to_internal` followed by `to_cartesian` may exchange equivalent atoms.
    """

    def __init__(
        self,
        *,
        reference_atoms: tuple[int, int, int],
        rows: Sequence[ZRow],
        cv_atoms: Sequence[int],
        periodic_atoms: Sequence[int],
        reference: torch.Tensor,
        scales: Scales,
        rotors: Sequence[Rotor] = (),
    ) -> None:
        check_zmatrix(reference_atoms, rows, cv_atoms, periodic_atoms, rotors, reference.double().cpu().numpy())
        if not all(math.isfinite(unit) and unit > 0 for unit in (scales.distance, scales.angle, scales.dihedral)):
            raise ValueError(f"the scales must be positive, not {scales}")
        self.reference_atoms = reference_atoms
        self.rows = list(rows)
        self.rotors = list(rotors)
        self.symmetry_number = 3 ** len(self.rotors)
        self._tables: dict[str, torch.Tensor] = {}
        self._row_of = {row[0]: index for index, row in enumerate(self.rows)}
        self._table = torch.tensor(self.rows, dtype=torch.long).reshape(-1, 4)
        self._levels = self._sort_levels()
        n = len(self.rows)
        # indices into the full vector of internals: r1, r2, theta, then all distances, angles and dihedrals of the rows
        cv = [3 + 2 * n + self._row_of[atom] for atom in cv_atoms]
        self._cv_index = torch.tensor(cv, dtype=torch.long)
        self._fine_index = torch.tensor([i for i in range(3 + 3 * n) if i not in cv])
        self.names = tuple(self._internal_names()[i] for i in self._fine_index)
        turning = {3 + 2 * n + self._row_of[atom] for atom in (*periodic_atoms, *(r.first for r in self.rotors))}
        self.periodic = torch.tensor([int(i) in turning for i in self._fine_index])
        kinds = torch.tensor([0, 0, 1] + [0] * n + [1] * n + [2] * n)[self._fine_index]
        units = torch.tensor([scales.distance, scales.angle, scales.dihedral], dtype=torch.float64)
        self._scale = torch.where(self.periodic, 1.0, units[kinds])
        raw = self._measure(reference[None].double())[0]
        self._centre = torch.where(self.periodic, 0.0, raw[self._fine_index])
        self._log_scale = float(self._scale.log().sum())
        period = torch.full_like(self._scale, math.pi)
        for rotor in self.rotors:
            position = 3 + 2 * n + self._row_of[rotor.first]
            period[self._fine_index == position] = math.pi / 3
        low = torch.tensor([0.0, 0.0, -math.inf], dtype=torch.float64)[kinds]
        high = torch.tensor([math.inf, math.pi, math.inf], dtype=torch.float64)[kinds]
        stiff = kinds == 2
        low = torch.where(stiff, -math.pi / self._scale, (low - self._centre) / self._scale)
        high = torch.where(stiff, math.pi / self._scale, (high - self._centre) / self._scale)
        self.lower = torch.where(self.periodic, -period, low)
        self.upper = torch.where(self.periodic, period, high)

    # ---- setup ------------------------------------------------------------------------------------

    def _sort_levels(self) -> list[torch.Tensor]:
        """Return the rows grouped by level: rows of one level refer only to atoms of lower levels."""
        level = dict.fromkeys(self.reference_atoms, 0)
        for atom, *others in self.rows:
            level[atom] = 1 + max(level[other] for other in others)
        top = max(level.values())
        return [
            torch.tensor([i for i, row in enumerate(self.rows) if level[row[0]] == depth])
            for depth in range(1, top + 1)
        ]

    def _internal_names(self) -> list[str]:
        a, b, c = self.reference_atoms
        names = [f"distance {a}-{b}", f"distance {a}-{c}", f"angle {b}-{a}-{c}"]
        names += [f"distance {atom}-{i}" for atom, i, _, _ in self.rows]
        names += [f"angle {atom}-{i}-{j}" for atom, i, j, _ in self.rows]
        return names + [f"dihedral {atom}-{i}-{j}-{k}" for atom, i, j, k in self.rows]

    def _on(self, name: str, tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return a constant tensor on the device of `like`, in its dtype if floating, cached by name."""
        key = f"{name}/{like.dtype}/{like.device}"
        if key not in self._tables:
            dtype = like.dtype if tensor.is_floating_point() else tensor.dtype
            self._tables[key] = tensor.to(like.device, dtype)
        return self._tables[key]

    @property
    def free_dihedrals(self) -> tuple[tuple[int, tuple[int, int, int, int]], ...]:
        """Dihedrals that rotate freely and are neither collective variables nor rotors: position in `y`, and atoms."""
        first = 3 + 2 * len(self.rows)
        rotors = {rotor.first for rotor in self.rotors}
        found = []
        for position, index in enumerate(self._fine_index.tolist()):
            if bool(self.periodic[position]) and self.rows[index - first][0] not in rotors:
                atom, i, j, k = self.rows[index - first]
                found.append((position, (atom, i, j, k)))
        return tuple(found)

    # ---- x -> internals ---------------------------------------------------------------------------

    def _measure(self, x: torch.Tensor) -> torch.Tensor:
        """Return all internals of ``x [batch, atoms, 3]``, ``[batch, 3 atoms - 6]``, with the rotors folded."""
        a, b, c = (x[:, atom] for atom in self.reference_atoms)
        u, v = b - a, c - a
        r1, r2 = u.norm(dim=1), v.norm(dim=1)
        opening = torch.atan2(torch.linalg.cross(u, v).norm(dim=1), (u * v).sum(1))
        table = self._on("table", self._table, x)
        p, i, j, k = (x[:, table[:, column]] for column in range(4))
        bond, arm = p - i, j - i
        distance = bond.norm(dim=2)
        angle = torch.atan2(torch.linalg.cross(bond, arm).norm(dim=2), (bond * arm).sum(2))
        torsion = dihedral(p, i, j, k)
        distance, angle, torsion = self._fold(distance, angle, torsion)
        return torch.cat([torch.stack([r1, r2, opening], dim=1), distance, angle, torsion], dim=1)

    def _fold(
        self, distance: torch.Tensor, angle: torch.Tensor, torsion: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Replace the first torsion of each rotor by the mean torsion, folded into the sector around zero."""
        for rotor in self.rotors:
            rows = torch.tensor([self._row_of[a] for a in (rotor.first, *rotor.others)], device=torsion.device)
            first = torsion[:, rows[0]]
            handed = torch.sign(torsion[:, rows[1]]).detach()
            zero = torch.zeros_like(first)
            turn = THIRD * torch.stack([zero, handed, -handed], dim=1)
            offsets = torch.stack([zero, torsion[:, rows[1]], torsion[:, rows[2]]], dim=1)
            mean = _wrap(first + _wrap(offsets - turn).mean(1))
            # each cyclic exchange of the atoms changes the mean by +-120 degrees; `sector` exchanges are needed
            sector = torch.remainder(-torch.floor(mean / THIRD + 0.5) * handed, 3).long()
            cycle = torch.arange(3, device=torsion.device)
            order = torch.remainder(sector[:, None] + cycle, 3)
            offsets = offsets.gather(1, order)
            offsets = _wrap(offsets - offsets[:, :1])
            folded = torch.remainder(mean + THIRD / 2, THIRD) - THIRD / 2
            torsion = torsion.index_copy(1, rows, torch.cat([folded[:, None], offsets[:, 1:]], dim=1))
            distance = distance.index_copy(1, rows, distance[:, rows].gather(1, order))
            angle = angle.index_copy(1, rows, angle[:, rows].gather(1, order))
        return distance, angle, torsion

    def to_internal(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return ``s, y, ln|det d(s, y)/dx|`` of configurations ``[batch, atoms, 3]``."""
        q = self._measure(x)
        s = q[:, self._on("cv", self._cv_index, x)]
        fine = q[:, self._on("fine", self._fine_index, x)]
        shifted = fine - self._on("centre", self._centre, x)
        n = len(self.rows)
        is_dihedral = self._on("dihedrals", self._fine_index >= 3 + 2 * n, x)
        periodic = self._on("periodic", self.periodic, x)
        shifted = torch.where(is_dihedral & ~periodic, _wrap(shifted), shifted)
        return s, shifted / self._on("scale", self._scale, x), -self._log_det(q)

    def _log_det(self, q: torch.Tensor) -> torch.Tensor:
        """Return ``ln|det dx/d(s, y)|`` from all internals ``[batch, 3 atoms - 6]``."""
        n = len(self.rows)
        # for an angle outside (0, pi) the magnitude of the sine keeps gradients finite
        sines = torch.cat([q[:, 2:3], q[:, 3 + n : 3 + 2 * n]], dim=1).sin().abs().log().sum(1)
        distances = torch.cat([q[:, :2], q[:, 3 : 3 + n]], dim=1).abs().log().sum(1)
        return 2.0 * distances + sines + self._log_scale

    # ---- internals -> x ---------------------------------------------------------------------------

    def to_cartesian(self, s: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return configurations ``[batch, atoms, 3]`` and ``ln|det dx/d(s, y)|``."""
        fine = self._on("centre", self._centre, y) + y * self._on("scale", self._scale, y)
        both = torch.cat([s, fine], dim=1)
        order = torch.argsort(torch.cat([self._cv_index, self._fine_index]))
        q = both[:, self._on("order", order, y)]
        n = len(self.rows)
        distance, angle, torsion = q[:, 3 : 3 + n], q[:, 3 + n : 3 + 2 * n], q[:, 3 + 2 * n :]
        torsion = self._unfold(torsion)
        sine = angle.sin()
        along = -distance * angle.cos()
        across = distance * sine * torsion.cos()
        up = distance * sine * torsion.sin()
        local = torch.stack([along, across, up], dim=2)
        zero = torch.zeros_like(q[:, 0])
        a, b, c = self.reference_atoms
        # atoms are appended in order of placement, which keeps gathers small and avoids in-place writes
        placed = [a, b, c]
        x = torch.stack(
            [
                torch.stack([zero, zero, zero], dim=1),
                torch.stack([q[:, 0], zero, zero], dim=1),
                torch.stack([q[:, 1] * q[:, 2].cos(), q[:, 1] * q[:, 2].sin(), zero], dim=1),
            ],
            dim=1,
        )
        for number, level in enumerate(self._levels):
            slot = {atom: index for index, atom in enumerate(placed)}
            refs = torch.tensor([[slot[other] for other in self.rows[row][1:]] for row in level])
            refs = self._on(f"refs{number}", refs, s.new_zeros(0).to(y))
            i, j, k = (x[:, refs[:, column]] for column in range(3))
            axis = torch.nn.functional.normalize(i - j, dim=2)
            normal = torch.nn.functional.normalize(torch.linalg.cross(j - k, axis), dim=2)
            side = torch.linalg.cross(normal, axis)
            part = local[:, self._on(f"level{number}", level, y)]
            new = i + part[:, :, 0:1] * axis + part[:, :, 1:2] * side + part[:, :, 2:3] * normal
            x = torch.cat([x, new], dim=1)
            placed += [self.rows[row][0] for row in level]
        back = torch.argsort(torch.tensor(placed))
        return x[:, self._on("back", back, y)], self._log_det(q)

    def _unfold(self, torsion: torch.Tensor) -> torch.Tensor:
        """Replace the mean torsion of each rotor by the torsion of its first atom."""
        for rotor in self.rotors:
            rows = [self._row_of[a] for a in (rotor.first, *rotor.others)]
            second, third = torsion[:, rows[1]], torsion[:, rows[2]]
            handed = torch.sign(self._handedness(rotor))
            excess = _wrap(second - handed * THIRD) + _wrap(third + handed * THIRD)
            index = torch.tensor([rows[0]], device=torsion.device)
            torsion = torsion.index_copy(1, index, (torsion[:, rows[0]] - excess / 3)[:, None])
        return torsion

    def _handedness(self, rotor: Rotor) -> torch.Tensor:
        """Return the reference dihedral of the rotor's second atom; its sign gives the order of the atoms."""
        n = len(self.rows)
        position = 3 + 2 * n + self._row_of[rotor.others[0]]
        return self._centre[self._fine_index == position][0]

    def in_state_space(self, x: torch.Tensor) -> torch.Tensor:
        """Return True for every configuration; molecules with chirality override this."""
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
