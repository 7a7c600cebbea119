"""Starting trajectory of the published recipe, in the basin of the initial configuration."""

from __future__ import annotations

import torch

from cgbench.contracts.problem import Problem
from cgbench_methods.cgflow.published.config import SeedingConfig
from cgbench_methods.lib.sampling.langevin import Langevin
from cgbench_methods.lib.sampling.metropolis import Metropolis
from cgbench_methods.lib.sampling.walkers import end_block

__all__ = ["starting_trajectory"]


def starting_trajectory(problem: Problem, config: SeedingConfig, generator: torch.Generator) -> torch.Tensor:
    """Return frames ``[frames, ...]`` of Langevin dynamics, or of Metropolis sampling for systems without masses.

    Raises
    ------
    ValueError
        If no frame has a finite energy and is in the state space.
    """
    dynamics = _walker(problem, config, generator)
    frames = []
    for _ in range(config.steps // config.stride):
        dynamics.step(config.stride)
        unusable = end_block(problem, dynamics)
        frames.append(dynamics.positions[~unusable])
    if not any(map(len, frames)):
        raise ValueError(
            "no frame of the starting trajectory has a finite energy (diverged_walker) and is in the state space "
            "(outside_state_space)"
        )
    return torch.cat(frames)


def _walker(problem: Problem, config: SeedingConfig, generator: torch.Generator) -> Langevin | Metropolis:
    """Return one walker at the initial configuration, in float64."""
    start = problem.initial_configuration()[None].double()
    if problem.masses is None:
        return Metropolis(problem.reduced_energy, start, config.step_size, generator)
    return Langevin(
        problem.reduced_energy_and_gradient,
        problem.masses,
        problem.temperature,
        time_step=config.time_step,
        friction=config.friction,
        positions=start,
        generator=generator,
    )
