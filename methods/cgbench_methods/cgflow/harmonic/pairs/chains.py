"""Persistent Markov chains over the collective variables (CVs), on an energy that is cheap to evaluate.

Metropolis Monte Carlo of many walkers. Half of the proposals are Gaussian steps. The others are jumps: the difference
of two known points, in one or two CVs at random, is added. Both are symmetric: the chains sample ``exp(-energy)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.cgflow.common.exploration import inside_domain

__all__ = ["move"]


@torch.no_grad()
def move(
    cvs: CollectiveVariables,
    energy: Callable[[torch.Tensor], torch.Tensor],
    s: torch.Tensor,
    known: torch.Tensor,
    generator: torch.Generator,
    *,
    steps: int,
    step: torch.Tensor,
) -> torch.Tensor:
    """Move all walkers; return their new positions ``[walkers, cvs]``.

    Parameters
    ----------
    energy
        Reduced energy ``[batch]`` at points ``[batch, cvs]``; infinite where no walker may be.
    s
        Positions ``[walkers, cvs]``.
    known
        Points whose differences are the jumps ``[points, cvs]``.
    steps
        Number of proposals to each walker.
    step
        Standard deviation of a Gaussian step along each CV ``[cvs]``.
    """
    options: dict[str, Any] = {"generator": generator, "dtype": s.dtype}
    present = energy(s)
    walkers, dimensions = s.shape
    for number in range(steps):
        if number % 2:
            pair = torch.randint(len(known), (2, walkers), generator=generator)
            axes = torch.randint(dimensions, (2, walkers), generator=generator)
            mask = torch.zeros_like(s).scatter_(1, axes.T, 1.0)
            change = mask * cvs.difference(known[pair[0]], known[pair[1]])
        else:
            change = step * torch.randn(s.shape, **options)
        proposal = cvs.wrap(s + change)
        new = energy(proposal)
        accepted = torch.rand(walkers, **options).log() < present - new
        accepted &= inside_domain(cvs, proposal)
        s = torch.where(accepted[:, None], proposal, s)
        present = torch.where(accepted, new, present)
    return s
