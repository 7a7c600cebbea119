"""Walkers that share one well-tempered bias, on the batched engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench_methods.lib.sampling.bias import FourierBias
from cgbench_methods.lib.sampling.walkers import advance, make_walkers

if TYPE_CHECKING:
    from cgbench.contracts.problem import Problem
    from cgbench_methods.metadynamics.config import MetadynamicsConfig

__all__ = ["BatchedSampler", "Sampler"]

Array = NDArray[np.float64]


class Sampler(Protocol):
    """What `Metadynamics` needs of an engine; every step of every walker is one counted evaluation."""

    def begin(self) -> None:
        """Start a stretch of sampling that depends on nothing but the state and the random stream."""

    def deposit(self) -> None:
        """Let every walker go as many steps as the pace and leave a hill."""

    def advance(self, steps: int) -> None:
        """Let every walker go so many steps under the bias as it is."""

    def sample(self) -> tuple[Array, Array]:
        """Collective variables ``[walkers, cvs]`` and bias ``[walkers]`` in kT of the walkers where they are.

        Not a number for walkers that got lost on the way there.
        """

    def bias_on_grid(self) -> Array:
        """Bias in kT at the bin centres, of shape ``cvs.bins``."""

    def state_dict(self) -> dict[str, Any]:
        """Walkers and bias."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""


class BatchedSampler:
    """All walkers in one batch: Langevin for molecules, Metropolis without masses; the bias is a Fourier series.

    A hill has the height ``h exp(-V / (gamma - 1))`` (Barducci, Bussi, Parrinello, Phys. Rev. Lett. 100, 020603, 2008)
    with the bias V in kT where it is left, and is shared by all walkers (Raiteri et al., J. Phys. Chem. B 110, 3533,
    2006), which leave theirs at the same time.

    Parameters
    ----------
    problem
        The system.
    config
        Settings.
    generator
        Source of all randomness.
    """

    def __init__(self, problem: Problem, config: MetadynamicsConfig, generator: torch.Generator) -> None:
        self.problem, self.config = problem, config
        self.bias = FourierBias(problem.cvs, config.bias_order)
        start = problem.initial_configuration()
        self.dynamics = make_walkers(
            problem,
            start.expand(config.walkers, *start.shape),
            generator,
            time_step=config.time_step,
            friction=config.friction,
            step_size=config.step_size,
            bias=self.bias,
        )
        self._lost = torch.zeros(config.walkers, dtype=torch.bool, device=problem.device)

    def begin(self) -> None:
        """Nothing to do: walkers, bias and generator are the whole state."""

    def _here(self) -> tuple[torch.Tensor, torch.Tensor]:
        s = self.problem.collective_variables(self.dynamics.positions).double()
        return s.masked_fill(self._lost[:, None], torch.nan), self.bias.energy(s)

    def deposit(self) -> None:
        """Advance by the pace, then add one hill per walker; none outside the domain, and none for lost walkers."""
        config = self.config
        self.advance(config.pace)
        s, bias = self._here()
        inside = self.problem.cvs.bin_index(s) >= 0
        heights = inside.to(s) * config.height / config.walkers * torch.exp(-bias / (config.bias_factor - 1.0))
        # a hill of height zero still must stand somewhere: zero times NaN would be in the bias for ever
        inside &= heights.isfinite()
        self.bias.deposit(
            s.masked_fill(~inside[:, None], 0.0), heights.masked_fill(~inside, 0.0), config.widths(self.problem.cvs)
        )

    def advance(self, steps: int) -> None:
        """Advance all walkers under the bias as it is."""
        self._lost = advance(self.problem, self.dynamics, steps)

    def sample(self) -> tuple[Array, Array]:
        """Collective variables ``[walkers, cvs]`` and bias ``[walkers]`` in kT."""
        s, bias = self._here()
        return s.cpu().numpy(), bias.cpu().numpy()

    def bias_on_grid(self) -> Array:
        """Bias in kT at the bin centres."""
        return np.asarray(self.bias.on_grid())

    def state_dict(self) -> dict[str, Any]:
        """Walkers and bias."""
        return {"dynamics": self.dynamics.state_dict(), "bias": self.bias.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.dynamics.load_state_dict(state["dynamics"])
        self.bias.load_state_dict(state["bias"])
