"""Exploration: Monte Carlo on a model of the PMF to where the model is uncertain, and choice of new points there.

Walkers sample ``exp(-A(s) / f)``, where A is the model's mean and f a temperature factor, by Metropolis Monte Carlo. A
walker stops where the model's standard deviation exceeds a threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.lib.lengths import apart

__all__ = ["Walk", "broaden", "farthest_points", "inside_domain", "walk"]

MeanAndStd = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def inside_domain(cvs: CollectiveVariables, s: torch.Tensor) -> torch.Tensor:
    """Tell which points are within the bounds of the non-periodic CVs, boolean ``[batch]``."""
    inside = torch.ones(len(s), dtype=torch.bool, device=s.device)
    for axis, periodic in enumerate(cvs.periodic):
        if not periodic:
            inside &= (s[:, axis] >= cvs.lower[axis]) & (s[:, axis] <= cvs.upper[axis])
    return inside


@dataclass(frozen=True)
class Walk:
    """Result of a walk.

    Attributes
    ----------
    positions
        Last positions of all walkers ``[walkers, cvs]``.
    stopped
        Which walkers stopped because the model is uncertain there, boolean ``[walkers]``.
    steps
        Number of steps.
    """

    positions: torch.Tensor
    stopped: torch.Tensor
    steps: int


@torch.no_grad()
def walk(
    cvs: CollectiveVariables,
    mean_and_std: MeanAndStd,
    start: torch.Tensor,
    generator: torch.Generator,
    *,
    step: float | torch.Tensor,
    threshold: float,
    max_steps: int,
    min_steps: int = 0,
    wanted: int | None = None,
    temperature_factor: float = 1.0,
) -> Walk:
    """Move many walkers by Metropolis Monte Carlo on the model's mean until its spread exceeds a threshold.

    Parameters
    ----------
    mean_and_std
        The model: PMF and its standard deviation in kT at points ``[batch, cvs]``.
    start
        Starting points ``[walkers, cvs]``.
    step
        Standard deviation of the Gaussian proposal along each CV, a number or ``[cvs]``.
    threshold
        A walker stops where the standard deviation is larger, in kT.
    max_steps, min_steps
        Largest number of steps; number of steps before which no walker stops.
    wanted
        End when this many walkers have stopped (checked every 16 steps); all of them by default.
    temperature_factor
        Sample at this multiple of the temperature, to cross barriers sooner.
    """
    s = start.clone()
    energy, spread = mean_and_std(s)
    stopped = torch.zeros(len(s), dtype=torch.bool, device=s.device)
    options: dict[str, Any] = {"generator": generator, "dtype": s.dtype, "device": s.device}
    wanted = len(s) if wanted is None else min(wanted, len(s))
    for number in range(max_steps):
        proposal = cvs.wrap(s + step * torch.randn(s.shape, **options))
        uniform = torch.rand(len(s), **options)
        new_energy, new_spread = mean_and_std(proposal)
        accepted = uniform.log() < (energy - new_energy) / temperature_factor
        accepted &= inside_domain(cvs, proposal) & ~stopped
        s = torch.where(accepted[:, None], proposal, s)
        energy = torch.where(accepted, new_energy, energy)
        spread = torch.where(accepted, new_spread, spread)
        if number + 1 >= min_steps:
            stopped |= spread > threshold
            if number % 16 == 15 and int(stopped.sum()) >= wanted:
                return Walk(s, stopped, number + 1)
    return Walk(s, stopped, max_steps)


def farthest_points(
    cvs: CollectiveVariables,
    candidates: torch.Tensor,
    count: int,
    known: torch.Tensor | None = None,
    min_distance: float = 0.0,
) -> torch.Tensor:
    """Choose points that are far from each other: repeatedly the candidate farthest from those chosen so far.

    Parameters
    ----------
    known
        Points to keep a distance from as well; without any, the first candidate is chosen first.
    min_distance
        Stop when no candidate is farther than this from all chosen and known points (`cgbench_methods.lib.lengths`).

    Returns
    -------
    torch.Tensor
        Indices into `candidates`.
    """
    if len(candidates) == 0:
        return torch.zeros(0, dtype=torch.long)
    chosen: list[int] = []
    if known is not None and len(known):
        nearest = apart(cvs, candidates[:, None], known[None]).min(dim=1).values
    else:
        nearest = candidates.new_full((len(candidates),), torch.inf)
    while len(chosen) < min(count, len(candidates)):
        index = int(nearest.argmax())
        if float(nearest[index]) <= min_distance:
            break
        chosen.append(index)
        nearest = torch.minimum(nearest, apart(cvs, candidates, candidates[index]))
    return torch.tensor(chosen, dtype=torch.long)


def broaden(
    cvs: CollectiveVariables,
    points: torch.Tensor,
    radius: float | torch.Tensor,
    count: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Replace each point by `count` points, drawn uniformly from the ball of `radius` around it.

    The ball is an interval in one dimension and a disc in two; with one radius per CV ``[cvs]`` it is an ellipsoid.
    Points outside the domain are wrapped, or reflected at the bounds of a non-periodic CV.
    """
    dimensions = points.shape[1]
    options: dict[str, Any] = {"generator": generator, "dtype": points.dtype, "device": points.device}
    direction = torch.randn(len(points), count, dimensions, **options)
    direction = direction / direction.norm(dim=2, keepdim=True)
    uniform = torch.rand(len(points), count, 1, **options)
    distance = radius * uniform ** (1.0 / dimensions)
    spread: torch.Tensor = (points[:, None] + distance * direction).reshape(-1, dimensions)
    spread = cvs.wrap(spread)
    for axis, periodic in enumerate(cvs.periodic):
        if not periodic:
            low, high = cvs.lower[axis], cvs.upper[axis]
            folded = torch.remainder(spread[:, axis] - low, 2 * (high - low))
            spread[:, axis] = low + torch.minimum(folded, 2 * (high - low) - folded)
    return spread
