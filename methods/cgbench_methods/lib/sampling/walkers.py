"""The dynamics of all simulation methods: Langevin for molecules, Metropolis for systems without masses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cgbench_methods.lib.sampling.bias import Bias, biased
from cgbench_methods.lib.sampling.langevin import Langevin
from cgbench_methods.lib.sampling.metropolis import Metropolis

if TYPE_CHECKING:
    from cgbench.contracts.problem import Problem

__all__ = ["BLOCK", "advance", "end_block", "make_walkers"]

BLOCK = 50  # steps, at most, between looks for walkers that are lost


def make_walkers(
    problem: Problem,
    positions: torch.Tensor,
    generator: torch.Generator,
    *,
    time_step: float,
    friction: float,
    step_size: float,
    bias: Bias | None = None,
) -> Langevin | Metropolis:
    """Make walkers whose every step is one counted evaluation each, under a bias if there is one.

    The bias may change between steps (hills, exchanged restraints) at no cost.

    Parameters
    ----------
    problem
        The system.
    positions
        Starting positions ``[walkers, ...]``.
    generator
        Source of all randomness.
    time_step, friction
        In ps and 1/ps, of Langevin dynamics (in float32).
    step_size
        Standard deviation of Metropolis proposals.
    bias
        In kT; row i of what it is called with is walker i.
    """
    if problem.masses is None:
        bias_energy = None
        if bias is not None:
            bias_energy = lambda x: bias.energy(problem.collective_variables(x))  # noqa: E731
        energy = lambda x: problem.reduced_energy_and_gradient(x)[0]  # noqa: E731
        return Metropolis(energy, positions, step_size, generator, bias_energy)
    evaluate = problem.reduced_energy_and_gradient
    return Langevin(
        evaluate if bias is None else biased(bias, evaluate, problem.collective_variables),
        problem.masses,
        problem.temperature,
        time_step=time_step,
        friction=friction,
        positions=positions.float(),
        generator=generator,
    )


def end_block(problem: Problem, dynamics: Langevin | Metropolis) -> torch.Tensor:
    """Put walkers that were lost since the last call back to where they were then; count them.

    Returns
    -------
    lost
        Which, boolean ``[walkers]``: nothing that they did since then may be counted.
    """
    lost = dynamics.put_back_lost()
    problem.report_anomaly("diverged_walker", lost.sum(), len(lost))
    return lost


def advance(problem: Problem, dynamics: Langevin | Metropolis, steps: int) -> torch.Tensor:
    """Let all walkers go so many steps, in blocks; says which were lost in the last block, boolean ``[walkers]``."""
    lost = torch.zeros(len(dynamics.positions), dtype=torch.bool, device=dynamics.positions.device)
    while steps > 0:
        dynamics.step(min(steps, BLOCK))
        lost = end_block(problem, dynamics)
        steps -= BLOCK
    return lost
