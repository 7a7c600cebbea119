"""Relaxation of reference points from several starts, of which the lowest minimum is kept.

A *start* is a pair: coordinates y ``[n, fine]`` and Hessians ``[n, fine, fine]``, one of each for every point.
"""

from __future__ import annotations

import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.cgflow.harmonic.atlas.minima import HarmonicMinima, relax
from cgbench_methods.cgflow.harmonic.atlas.wells import Wells
from cgbench_methods.cgflow.harmonic.config import MinimaConfig
from cgbench_methods.lib.flows.target import ConditionalTarget
from cgbench_methods.lib.lengths import apart

__all__ = ["Start", "cost_of", "distances", "lowest", "neighbours", "turned_lowest"]

Start = tuple[torch.Tensor, torch.Tensor]

AT_ONCE = 256  # points whose distances are computed together
OUTSIDE = 1e6  # kT; added to the energy of a minimum that has left its well, when the lowest is chosen


def distances(
    cvs: CollectiveVariables, points: torch.Tensor, known: torch.Tensor, *, leave_out_same: bool = False
) -> torch.Tensor:
    """Return distances along the CVs (`cgbench_methods.lib.lengths`), infinite to other wells ``[n, m]``.

    Parameters
    ----------
    cvs
        The CVs.
    points, known
        ``[n, cvs]`` and ``[m, cvs]``; with wells one column more.
    leave_out_same
        Whether equal points are infinitely far, too.
    """
    count = len(cvs)
    distance = apart(cvs, points[:, None, :count], known[None, :, :count])
    distance[(points[:, None, count:] != known[None, :, count:]).any(dim=2)] = torch.inf
    if leave_out_same:
        distance[(points[:, None] == known[None]).all(dim=2)] = torch.inf
    return distance


def neighbours(cvs: CollectiveVariables, known: torch.Tensor, count: int) -> torch.Tensor:
    """Return the numbers of the nearest other points of the same well ``[n, count]``; -1 for none.

    Parameters
    ----------
    known
        ``[n, cvs]``; with wells one column more.
    """
    count = min(count, len(known))
    found = [
        distances(cvs, points, known, leave_out_same=True).topk(count, dim=1, largest=False)
        for points in known.split(AT_ONCE)
    ]
    return torch.cat([torch.where(one.values.isfinite(), one.indices, -1) for one in found])


def turned_lowest(cvs: CollectiveVariables, minima: HarmonicMinima, wells: Wells, points: torch.Tensor) -> Start:
    """Return the lowest minima at the nearest s, turned into the wells of points ``[n, cvs + 1]``."""
    away = apart(cvs, points[:, None, :-1], minima.s[None, :, :-1])
    there = away == away.min(dim=1, keepdim=True).values
    chosen = torch.where(there, minima.energy, torch.inf).argmin(dim=1)
    turned = minima.y[chosen].clone()
    turned[:, wells.positions] = wells.centres[points[:, -1].long()]
    return turned, minima.hessian[chosen]


def lowest(
    target: ConditionalTarget, s: torch.Tensor, starts: list[Start], config: MinimaConfig, wells: Wells | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Relax from all starts; return y and Hessian to start from for the lowest minimum, and its `cost_of`.

    Parameters
    ----------
    target
        The energy.
    s
        Points ``[n, cvs]``; with wells one column more.
    starts
        At least one.
    config
        Settings of the relaxation.
    wells
        Wells of free torsions.
    """
    count = len(starts)
    hessian = torch.cat([h for _, h in starts])
    relaxed = relax(
        target,
        s.repeat(count, 1),
        torch.cat([y for y, _ in starts]),
        hessian,
        steps=config.relax_steps,
        tolerance=config.relax_tolerance,
    )
    cost = cost_of(wells, s.repeat(count, 1), relaxed.y, relaxed.energy).reshape(count, len(s))
    best = cost.argmin(dim=0)
    row = best * len(s) + torch.arange(len(s))
    return relaxed.y[row], hessian[row], cost.min(dim=0).values


def cost_of(wells: Wells | None, points: torch.Tensor, y: torch.Tensor, energy: torch.Tensor) -> torch.Tensor:
    """Return energies of minima ``[n]``, higher by `OUTSIDE` for those that have left their well."""
    cost: torch.Tensor = energy.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=torch.inf)
    if wells is not None:
        own, _ = wells.own_point(points[:, :-1], y)
        cost = cost + OUTSIDE * (own[:, -1] != points[:, -1])
    return cost
