"""Wells of the free torsions: a smooth partition of the fine-grained coordinates into parts with one minimum each.

A free torsion has several wells at each s, such as the rotamers of a side chain. With the centres ``c_k`` (one angle
per free torsion t) of all wells k,

    r_k(y) = exp(kappa sum_t cos(y_t - c_kt)) / sum_j exp(kappa sum_t cos(y_t - c_jt)),        sum_k r_k(y) = 1,

splits the integral over y without gaps and without double counting:

    exp(-A(s)) = sum_k int exp(-E_k(s, y)) dy,        E_k(s, y) = E(s, y) - ln r_k(y).

Each E_k has one well, hence a harmonic minimum and a flow q(y|s, k). With wells drawn from q(k|s), the weight
``w = exp(-E_k(s, y)) / (q(k|s) q(y|s, k))`` has the mean ``exp(-A(s))``, whatever the flow and q(k|s) are.

A *point* is ``(s, k)``: the collective variables, and the number of the well in the last column ``[batch, cvs + 1]``.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.functional import one_hot

from cgbench.contracts.coordinates import free_torsions
from cgbench_methods.cgflow.harmonic.atlas.minima import Relaxed, relax
from cgbench_methods.cgflow.harmonic.config import HarmonicConfig
from cgbench_methods.lib.flows.target import ConditionalTarget

__all__ = ["Features", "WellFeatures", "WellTarget", "Wells", "find_wells", "relax_all_round"]

ANGLES = 6  # starting angles of each torsion: every well wider than 60 degrees has one
OFFSET = 0.25  # of the distance between starting angles: without it, half of them would be on top of barriers
LEAST_DENSITY = 0.03  # of the relaxed angles, relative to the largest; a smaller maximum is no well
NEAREST = math.radians(45.0)  # wells of a torsion that are closer are one


@dataclass(frozen=True)
class Wells:
    """The wells of the free torsions.

    Attributes
    ----------
    positions
        Positions of the free torsions in `y` ``[torsions]``.
    centres
        Angles at the centre of each well ``[wells, torsions]``.
    sharpness
        ``kappa``: the larger, the sharper the boundaries between wells.
    """

    positions: torch.Tensor
    centres: torch.Tensor
    sharpness: float

    def __len__(self) -> int:
        return len(self.centres)

    def points(self, s: torch.Tensor) -> torch.Tensor:
        """Return the points of all wells at each s, ``[batch, cvs] -> [batch * wells, cvs + 1]``."""
        well = torch.arange(len(self), dtype=s.dtype, device=s.device).repeat(len(s))
        return torch.cat([s.repeat_interleave(len(self), 0), well[:, None]], dim=1)

    def own_point(self, s: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the points of the wells that configurations belong to, and `y` with angles around their centres.

        Parameters
        ----------
        s, y
            ``[batch, cvs]`` and ``[batch, fine]``.
        """
        away = y[:, self.positions, None] - self.centres.T
        well = away.cos().sum(1).argmax(dim=1)
        own = away.gather(2, well[:, None, None].expand(-1, away.shape[1], -1)).squeeze(2)
        y = y.index_add(1, self.positions, -2 * math.pi * (own / (2 * math.pi)).round())
        return torch.cat([s, well[:, None].to(s)], dim=1), y

    def log_membership(self, y: torch.Tensor, well: torch.Tensor) -> torch.Tensor:
        """Return ``ln r_k(y)`` ``[batch]`` for the well k of each row; minus infinity beyond half a turn.

        Flows generate angles on the line. The cut at half a turn from the centre counts each angle once.
        """
        away = y[:, self.positions.to(y.device), None] - self.centres.to(y).T
        log_share = torch.log_softmax(self.sharpness * away.cos().sum(1), dim=1)
        chosen = well[:, None]
        own = away.detach().gather(2, chosen[:, None].expand(-1, away.shape[1], -1))
        inside = (own.abs() <= math.pi).all(dim=1)
        return torch.where(inside, log_share.gather(1, chosen), -torch.inf).squeeze(1)


class WellTarget(ConditionalTarget):
    """Reduced energy ``E_k(s, y) = E(s, y) - ln r_k(y)`` at points ``(s, k)``.

    Parameters
    ----------
    target
        The energy without wells.
    wells
        The wells.
    """

    def __init__(self, target: ConditionalTarget, wells: Wells) -> None:
        super().__init__(target.problem, target.coordinates)
        self.wells = wells

    def _energy(self, s: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return super()._energy(s[:, :-1], y) - self.wells.log_membership(y, s[:, -1].detach().long())


class Features(Protocol):
    """Features of points, the context of the flow.

    Attributes
    ----------
    squared_frequency
        Square of the frequency of each feature ``[features]``.
    """

    squared_frequency: torch.Tensor

    def __len__(self) -> int:
        """Return the number of features."""
        ...

    def __call__(self, s: torch.Tensor, /) -> torch.Tensor:
        """Evaluate at points, ``[batch, ...] -> [batch, features]``; differentiable."""
        ...


class WellFeatures:
    """Features of points ``(s, k)``: those of s in the block of well k, zero in the blocks of the others.

    Parameters
    ----------
    basis
        Features of s.
    wells
        Number of wells.

    Attributes
    ----------
    squared_frequency
        As in `FourierBasis` ``[wells * modes]``.
    """

    def __init__(self, basis: Features, wells: int) -> None:
        self.basis, self.wells = basis, wells
        self.squared_frequency = basis.squared_frequency.repeat(wells)

    def __len__(self) -> int:
        return self.wells * len(self.basis)

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        """Evaluate, ``[batch, cvs + 1] -> [batch, wells * modes]``; differentiable in s."""
        of_s = self.basis(points[:, :-1])
        own = one_hot(points[:, -1].detach().long(), self.wells).to(of_s)
        return (own[:, :, None] * of_s[:, None]).flatten(1)


def find_wells(
    target: ConditionalTarget,
    s: torch.Tensor,
    y: torch.Tensor,
    hessian: torch.Tensor,
    config: HarmonicConfig,
    generator: torch.Generator,
) -> Wells:
    """Find the wells of the free torsions by relaxing from a grid of their angles at several s.

    The relaxed angles of each torsion, at energies within the margin of the lowest at the same s, are
    clustered on the circle. The wells are those combinations of clusters that occur, of lowest energies if they are
    too many. A combination that is left out belongs to the wells nearest to it.

    Parameters
    ----------
    s
        Where to relax ``[n, cvs]``.
    y, hessian
        A minimum ``[fine]`` and the Hessian there ``[fine, fine]``.
    generator
        Draws combinations of angles if there are too many.
    """
    positions = free_torsions(target.coordinates)
    every = len(s)
    relaxed = relax_all_round(target, s, y.repeat(every, 1), hessian.repeat(every, 1, 1), config, generator)
    count = len(relaxed.y) // every
    energy = relaxed.energy.reshape(len(s), count)
    above = (energy - energy.min(dim=1, keepdim=True).values).flatten()
    low = above < config.wells.margin  # false where not finite
    angles, above = relaxed.y[low][:, positions], above[low]
    centres = [_modes(column) for column in angles.T]
    nearest = torch.stack([(a[:, None] - c).cos().argmax(dim=1) for a, c in zip(angles.T, centres, strict=True)], dim=1)
    found, member = nearest.unique(dim=0, return_inverse=True)
    lowest = torch.full((len(found),), torch.inf, dtype=above.dtype).scatter_reduce(0, member, above, "amin")
    kept = lowest.argsort(stable=True)[: config.wells.largest_number].sort().values
    columns = [c[found[kept, t]] for t, c in enumerate(centres)]
    return Wells(positions, torch.stack(columns, dim=1), config.wells.sharpness)


def relax_all_round(
    target: ConditionalTarget,
    s: torch.Tensor,
    y: torch.Tensor,
    hessian: torch.Tensor,
    config: HarmonicConfig,
    generator: torch.Generator,
) -> Relaxed:
    """Relax at each s from all combinations of angles of the free torsions, or from some at random if there are many.

    Parameters
    ----------
    s, y, hessian
        Values of the CVs ``[n, cvs]``, the coordinates whose free torsions are turned ``[n, fine]``, and Hessians to
        start with ``[n, fine, fine]``.
    generator
        Draws combinations of angles.

    Returns
    -------
    Relaxed
        ``[n * starts]``, those of the same s in sequence.
    """
    positions = free_torsions(target.coordinates)
    turn = 2 * math.pi * (torch.arange(ANGLES, dtype=torch.float64) + OFFSET) / ANGLES
    if ANGLES ** len(positions) <= config.wells.starts:
        turns = torch.tensor(list(itertools.product(turn.tolist(), repeat=len(positions))), dtype=torch.float64)
    else:
        turns = turn[torch.randint(ANGLES, (config.wells.starts, len(positions)), generator=generator)]
    count = len(turns)
    start = y.repeat_interleave(count, 0)
    start[:, positions] += turns.repeat(len(s), 1)
    return relax(
        target,
        s.repeat_interleave(count, 0),
        start,
        hessian.repeat_interleave(count, 0),
        steps=config.atlas.relax_steps,
        tolerance=config.atlas.relax_tolerance,
    )


def _modes(angles: torch.Tensor) -> torch.Tensor:
    """Return the maxima of the density of angles on the circle, highest first, those apart by `NEAREST` or more."""
    grid = 2 * math.pi * torch.arange(180, dtype=torch.float64) / 180 - math.pi
    density = torch.exp(20.0 * ((grid[:, None] - angles).cos() - 1.0)).sum(dim=1)  # kernel of 13 degrees
    peak = (density >= density.roll(1)) & (density > density.roll(-1)) & (density > LEAST_DENSITY * density.max())
    chosen: list[float] = []
    for angle in grid[peak][density[peak].argsort(descending=True)].tolist():
        if all(math.cos(angle - other) < math.cos(NEAREST) for other in chosen):
            chosen.append(angle)
    return torch.tensor(chosen, dtype=torch.float64)
