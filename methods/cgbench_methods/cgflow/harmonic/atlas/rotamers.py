"""Search for the wells of free torsions: relaxation from angles all round, clusters of what is found.

A torsion such as chi1 has the same few wells at all s. One with low barriers, such as that of an amide group in a side
chain, has minima that move with s, far enough to fill the gaps between the clusters. Where two of them are in one well
at the same s, its target has two maxima, and a flow that starts as a Gaussian can miss one. Such a torsion is divided
evenly: the boundaries between wells (`cgbench_methods.cgflow.harmonic.atlas.wells`) then leave no room for two.
"""

from __future__ import annotations

import itertools
import math

import torch

from cgbench.contracts.coordinates import free_torsions
from cgbench_methods.cgflow.harmonic.atlas.minima import Relaxed, relax
from cgbench_methods.cgflow.harmonic.atlas.wells import Wells
from cgbench_methods.cgflow.harmonic.config import HarmonicConfig
from cgbench_methods.lib.flows.target import ConditionalTarget

__all__ = ["LOW", "centres_of_wells", "find_wells", "relax_all_round"]

ANGLES = 6  # starting angles of each torsion: every well wider than 60 degrees has one
SPACING = 2 * math.pi / ANGLES
OFFSET = 0.25  # of the distance between starting angles: without it, half of them would be on top of barriers
LEAST_DENSITY = 0.03  # of the relaxed angles, relative to the largest; a smaller maximum is no well
NEAREST = math.radians(45.0)  # wells of a torsion that are closer are one
LOW = 4.0  # kT above the lowest minimum at the same s; others have little weight


def find_wells(
    target: ConditionalTarget,
    s: torch.Tensor,
    y: torch.Tensor,
    hessian: torch.Tensor,
    config: HarmonicConfig,
    generator: torch.Generator,
) -> Wells:
    """Find the wells of the free torsions by relaxing from a grid of their angles at several s.

    They are those that `centres_of_wells` finds from the minima within the margin of the lowest at the same s. Low
    minima must not share one, where the PMF is not far too high.

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
    energy = torch.where(relaxed.energy.isnan(), torch.inf, relaxed.energy).reshape(len(s), count)
    lowest = energy.min(dim=1, keepdim=True).values
    above = (energy - lowest).flatten()
    low = above < config.wells.margin  # false where not finite
    number = torch.arange(len(s)).repeat_interleave(count)[low]
    relevant = (lowest < lowest.min() + config.labels.ceiling).squeeze(1)
    angles, above = relaxed.y[low][:, positions], above[low]
    distinct = (above < LOW) & relevant[number]
    centres = centres_of_wells(angles, above, number, distinct, config.wells.largest_number)
    return Wells(positions, centres, config.wells.sharpness)


def centres_of_wells(
    angles: torch.Tensor, above: torch.Tensor, number: torch.Tensor, distinct: torch.Tensor, largest: int
) -> torch.Tensor:
    """Return the centres of the wells ``[wells, torsions]``, from minima at several s.

    The angles of each torsion are clustered on the circle. The wells are those combinations of clusters that occur, of
    lowest energies if they are too many. A combination that is left out belongs to the wells nearest to it.

    While a well has two minima at the same s that are further apart than starting angles are, the torsion that is
    furthest from the centre is divided evenly, with one of the centres at its largest cluster.

    Parameters
    ----------
    angles, above, number
        Angles of the minima ``[n, torsions]``, their energies above the lowest at the same s ``[n]``, and the numbers
        of their s ``[n]``.
    distinct
        Which minima must not share a well, boolean ``[n]``.
    largest
        Largest number of wells.
    """
    divided = torch.zeros(angles.shape[1], dtype=torch.bool)
    clusters = [_modes(column) for column in angles.T]
    centres = _combinations(angles, above, clusters, largest)
    together = (number[:, None] == number) & distinct[:, None] & distinct
    together &= _turn(angles[:, None], angles).amax(dim=2) > SPACING
    while len(centres) < largest:
        well = (angles[:, None] - centres).cos().sum(2).argmax(dim=1)
        away, torsion = _turn(angles, centres[well]).max(dim=1)
        outer = (together & (well[:, None] == well) & (away[:, None] >= away)).any(dim=1)
        if not bool(outer.any()):
            break
        chosen = int(torsion[torch.where(outer, away, -1.0).argmax()])
        if bool(divided[chosen]):
            break
        divided[chosen] = True
        clusters[chosen] = _wrapped(clusters[chosen][0] + SPACING * torch.arange(ANGLES, dtype=angles.dtype))
        centres = _combinations(angles, above, clusters, largest)
    return centres


def _combinations(
    angles: torch.Tensor, above: torch.Tensor, clusters: list[torch.Tensor], largest: int
) -> torch.Tensor:
    """Return those combinations of the clusters of all torsions that occur, those of lowest energies if too many."""
    nearest = torch.stack(
        [(a[:, None] - c).cos().argmax(dim=1) for a, c in zip(angles.T, clusters, strict=True)], dim=1
    )
    found, member = nearest.unique(dim=0, return_inverse=True)
    lowest = torch.full((len(found),), torch.inf, dtype=above.dtype).scatter_reduce(0, member, above, "amin")
    kept = lowest.argsort(stable=True)[:largest].sort().values
    return torch.stack([c[found[kept, t]] for t, c in enumerate(clusters)], dim=1)


def _turn(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the smallest turn between angles, up to half a turn."""
    return _wrapped(a - b).abs()


def _wrapped(angles: torch.Tensor) -> torch.Tensor:
    """Return angles between minus half a turn and half a turn."""
    return torch.remainder(angles + math.pi, 2 * math.pi) - math.pi


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
    turn = SPACING * (torch.arange(ANGLES, dtype=torch.float64) + OFFSET)
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
