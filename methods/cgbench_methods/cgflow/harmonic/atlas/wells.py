"""Wells of the free torsions: a smooth partition of the fine-grained coordinates into parts with one minimum each.

A free torsion has several wells at each s, such as the rotamers of a side chain. With the centres ``c_k`` (one angle
per free torsion t) of all wells k,

    m_k(y) = exp(kappa sum_t cos(y_t - c_kt)) / sum_j exp(kappa sum_t cos(y_t - c_jt)),
    r_k(y) = max(0, m_k(y) - m_0) / sum_j max(0, m_j(y) - m_0),        sum_k r_k(y) = 1,

splits the integral over y without gaps and without double counting:

    exp(-A(s)) = sum_k int exp(-E_k(s, y)) dy,        E_k(s, y) = E(s, y) - ln r_k(y).

A well ends where its m_k is below m_0, so it has no part in a deeper one nearby. Each E_k has one well, hence a
harmonic minimum and a flow q(y|s, k). `cgbench_methods.cgflow.harmonic.atlas.rotamers` finds the centres, and
`cgbench_methods.cgflow.harmonic.mixture` has the weights of samples of these flows.

A *point* is ``(s, k)``: the collective variables, and the number of the well in the last column ``[batch, cvs + 1]``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.functional import one_hot

from cgbench_methods.lib.flows.target import ConditionalTarget

__all__ = ["LEAST_MEMBERSHIP", "Features", "WellFeatures", "WellTarget", "Wells"]

LEAST_MEMBERSHIP = 0.05  # smaller memberships are zero


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

    @property
    def least(self) -> float:
        """The membership in the first equation that counts as zero."""
        return min(LEAST_MEMBERSHIP, 0.5 / len(self))

    def log_memberships(self, y: torch.Tensor, *, softened: bool = False) -> torch.Tensor:
        """Return ``ln r_k(y)`` for all wells ``[batch, wells]``; minus infinity outside a well.

        Parameters
        ----------
        softened
            Whether to be finite outside too. The logarithm then goes on with the same slope, twice that of ``ln m_k``.
        """
        away = y[:, self.positions.to(y.device), None] - self.centres.to(y).T
        log_m = torch.log_softmax(self.sharpness * away.cos().sum(1), dim=1)
        inside = (log_m.exp() - self.least).clamp(min=0.0)
        some = inside > self.least if softened else inside > 0
        outside = 2 * log_m - math.log(4 * self.least) if softened else torch.full_like(log_m, -torch.inf)
        return torch.where(some, torch.where(some, inside, 1.0).log(), outside) - inside.sum(1, keepdim=True).log()

    def log_membership(self, y: torch.Tensor, well: torch.Tensor) -> torch.Tensor:
        """Return the softened ``ln r_k(y)`` ``[batch]`` for the well k of each row; minus infinity beyond half a turn.

        Flows generate angles on the line. The cut at half a turn from the centre counts each angle once.
        """
        away = y[:, self.positions.to(y.device), None] - self.centres.to(y).T
        chosen = well[:, None]
        own = away.detach().gather(2, chosen[:, None].expand(-1, away.shape[1], -1))
        inside = (own.abs() <= math.pi).all(dim=1)
        log_share = self.log_memberships(y, softened=True)
        return torch.where(inside, log_share.gather(1, chosen), -torch.inf).squeeze(1)

    def around(self, y: torch.Tensor, well: torch.Tensor) -> torch.Tensor:
        """Return `y` with the free torsions within half a turn of the centre of the well of each row."""
        positions = self.positions.to(y.device)
        away = (y[:, positions] - self.centres.to(y)[well]).detach()
        return y.index_add(1, positions, -2 * math.pi * (away / (2 * math.pi)).round())


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
