"""Uncertain places of the model of the PMF, found by walkers."""

from __future__ import annotations

import torch

from cgbench_methods.cgflow.common.exploration import farthest_points, walk
from cgbench_methods.cgflow.harmonic.config import SurrogateConfig
from cgbench_methods.lib.estimators.surrogate import FourierSurrogate
from cgbench_methods.lib.lengths import units

__all__ = ["uncertain_points"]


def uncertain_points(
    surrogate: FourierSurrogate,
    start: torch.Tensor,
    config: SurrogateConfig,
    ceiling: float,
    generator: torch.Generator,
) -> tuple[torch.Tensor, int]:
    """Return points where walkers found the model uncertain, far from each other, and the number of these walkers.

    With more than two CVs, walkers that stop above the ceiling do not count. Most of the domain is above it and remains
    uncertain, and no map depends on it.

    Parameters
    ----------
    surrogate
        The model of the PMF.
    start
        Points to start from ``[n, cvs]``, drawn with repetition.
    config
        Settings of the walk.
    ceiling
        Height of the PMF above its minimum in kT, above which no s is drawn.
    generator
        Source of the walk.

    Returns
    -------
    points, stopped
        ``[points, cvs]``, and how many walkers have stopped.
    """
    start = start[torch.randint(len(start), (config.walkers,), generator=generator)]
    outcome = walk(
        surrogate.cvs,
        surrogate.table(),
        start,
        generator,
        step=config.walk_step * units(surrogate.cvs),
        threshold=config.threshold,
        max_steps=config.walk_steps,
        wanted=2 * config.new_points,
    )
    candidates = outcome.positions[outcome.stopped]
    if len(surrogate.cvs) > 2:
        candidates = candidates[surrogate.height(candidates) <= ceiling]
    chosen = candidates[farthest_points(surrogate.cvs, candidates, config.new_points)]
    return chosen, len(candidates)
