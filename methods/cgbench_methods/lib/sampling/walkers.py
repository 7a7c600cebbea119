"""Walkers of all simulation methods: Langevin dynamics of molecules, Metropolis sampling of systems without masses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from cgbench_methods.lib.sampling.bias import Bias, biased
from cgbench_methods.lib.sampling.langevin import Langevin
from cgbench_methods.lib.sampling.metropolis import Metropolis
from cgbench_methods.lib.sampling.overdamped import Overdamped

if TYPE_CHECKING:
    from cgbench.contracts.problem import Problem

__all__ = [
    "BLOCK",
    "WalkerSettings",
    "advance",
    "end_block",
    "make_walkers",
    "restore_diverged",
    "walkers_at",
    "walkers_at_start",
]

BLOCK = 50  # largest number of steps between checks of the walkers


class DynamicsSettings(Protocol):
    """Settings of the motion of walkers; see `make_walkers`."""

    @property
    def time_step(self) -> float:
        """Time step in ps."""

    @property
    def friction(self) -> float:
        """Friction in 1/ps."""

    @property
    def step_size(self) -> float:
        """Standard deviation of Metropolis proposals."""


class WalkerSettings(DynamicsSettings, Protocol):
    """Settings of walkers that start together; see `make_walkers`."""

    @property
    def walkers(self) -> int:
        """Number of walkers."""


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
    """Make walkers, optionally under a bias; a step of one walker is one counted evaluation.

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
        Settings of Langevin dynamics (in float32), in ps and 1/ps.
    step_size
        Standard deviation of Metropolis proposals.
    bias
        Bias in kT; row i of its argument is walker i.
    """
    if problem.masses is None:
        bias_energy = None
        if bias is not None:
            bias_energy = lambda x: bias.energy(problem.collective_variables(x))  # noqa: E731
        return Metropolis(problem.reduced_energy, positions, step_size, generator, bias_energy)
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


def walkers_at(
    problem: Problem,
    settings: DynamicsSettings,
    positions: torch.Tensor,
    generator: torch.Generator,
    bias: Bias | None = None,
) -> Langevin | Metropolis:
    """Make walkers at positions ``[walkers, ...]``, with the settings of a configuration; else as `make_walkers`."""
    return make_walkers(
        problem,
        positions,
        generator,
        time_step=settings.time_step,
        friction=settings.friction,
        step_size=settings.step_size,
        bias=bias,
    )


def walkers_at_start(
    problem: Problem, settings: WalkerSettings, generator: torch.Generator, bias: Bias | None = None
) -> Langevin | Metropolis:
    """Make ``settings.walkers`` walkers in the initial configuration; otherwise as `make_walkers`."""
    start = problem.initial_configuration()
    return walkers_at(problem, settings, start.expand(settings.walkers, *start.shape), generator, bias)


def end_block(problem: Problem, dynamics: Langevin | Metropolis | Overdamped) -> torch.Tensor:
    """Restore walkers that diverged since the last call, and count them and those outside the state space.

    Walkers outside continue: they may return.

    Returns
    -------
    unusable
        Walkers that diverged or are outside now, boolean ``[walkers]``. Their present sample must not be used, nor
        earlier samples since the last call of those that diverged.
    """
    return restore_diverged(problem, dynamics) | problem.report_state_space(dynamics.positions)


def restore_diverged(problem: Problem, dynamics: Langevin | Metropolis | Overdamped) -> torch.Tensor:
    """Restore walkers that diverged since the last call to their state then; count and return them, ``[walkers]``."""
    diverged = dynamics.restore_diverged()
    problem.report_anomaly("diverged_walker", diverged.sum(), len(diverged))
    return diverged


def advance(problem: Problem, dynamics: Langevin | Metropolis | Overdamped, steps: int) -> torch.Tensor:
    """Advance all walkers in blocks; return which are unusable after the last (see `end_block`), ``[walkers]``."""
    unusable = torch.zeros(len(dynamics.positions), dtype=torch.bool, device=dynamics.positions.device)
    while steps > 0:
        dynamics.step(min(steps, BLOCK))
        unusable = end_block(problem, dynamics)
        steps -= BLOCK
    return unusable
