"""Walkers that share one well-tempered bias: what a sampler offers, and the sampler on the batched engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import columns
from cgbench_methods.lib.sampling.bias import FourierBias
from cgbench_methods.lib.sampling.chosen import BiasOnChosen, chosen_axes
from cgbench_methods.lib.sampling.turns import Turns
from cgbench_methods.lib.sampling.walkers import advance, walkers_at_start

if TYPE_CHECKING:
    from cgbench.contracts.problem import Problem
    from cgbench_methods.metadynamics.config import MetadynamicsConfig

__all__ = ["BatchedSampler", "Sampler"]

Array = NDArray[np.float64]


class Sampler(Protocol):
    """What `Metadynamics` needs of an engine; every step of every walker is one counted evaluation.

    Attributes
    ----------
    cvs
        The biased CVs.
    turns
        Counts of the turns of side chains.
    """

    cvs: CollectiveVariables
    turns: Turns

    def begin(self) -> None:
        """Start a stretch of sampling that depends only on the state and the random stream."""

    def deposit(self) -> None:
        """Advance every walker by the pace, then add one hill per walker."""

    def advance(self, steps: int) -> None:
        """Advance every walker by `steps` under the present bias."""

    def sample(self) -> tuple[Array, Array]:
        """Collective variables of the system ``[walkers, cvs]`` and bias ``[walkers]`` in kT; NaN if unusable."""

    def bias_on_grid(self) -> Array:
        """Bias in kT at the bin centres of the biased CVs, of shape ``cvs.bins``."""

    def state_dict(self) -> dict[str, Any]:
        """Return walkers and bias."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class BatchedSampler:
    """All walkers in one batch: Langevin for molecules, Metropolis without masses; the bias is a Fourier series.

    The walkers add their hills at the same time.

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
        self.axes = chosen_axes(problem.cvs, config.cvs, "metadynamics")
        self.cvs = problem.cvs.subset(self.axes)
        self.bias = FourierBias(self.cvs, config.bias_order)
        self.dynamics = walkers_at_start(problem, config, generator, BiasOnChosen(self.bias, self.axes))
        self._unusable = torch.zeros(config.walkers, dtype=torch.bool, device=problem.device)
        self.turns = Turns(problem, config.walkers)

    def begin(self) -> None:
        """Do nothing: walkers, bias and generator are the whole state."""

    def _sampled(self) -> tuple[torch.Tensor, torch.Tensor]:
        s = self.problem.collective_variables(self.dynamics.positions).double()
        return s.masked_fill(self._unusable[:, None], torch.nan), self.bias.energy(columns(s, self.axes))

    def deposit(self) -> None:
        """Advance by the pace, then add one hill per usable walker inside the domain."""
        config = self.config
        self.advance(config.pace)
        s, bias = self._sampled()
        s = columns(s, self.axes)
        inside = self.cvs.bin_index(s) >= 0
        heights = inside.to(s) * config.height / config.walkers * torch.exp(-bias / (config.bias_factor - 1.0))
        # hills of height zero need finite centres: zero times NaN would stay in the bias
        inside &= heights.isfinite()
        self.bias.deposit(
            s.masked_fill(~inside[:, None], 0.0), heights.masked_fill(~inside, 0.0), config.widths(self.cvs)
        )

    def advance(self, steps: int) -> None:
        """Advance all walkers under the present bias."""
        self._unusable = advance(self.problem, self.dynamics, steps)
        self.turns.note(self.dynamics.positions, steps)

    def sample(self) -> tuple[Array, Array]:
        """Collective variables of the system ``[walkers, cvs]`` and bias ``[walkers]`` in kT."""
        s, bias = self._sampled()
        return s.cpu().numpy(), bias.cpu().numpy()

    def bias_on_grid(self) -> Array:
        """Bias in kT at the bin centres."""
        return np.asarray(self.bias.on_grid())

    def state_dict(self) -> dict[str, Any]:
        """Return walkers and bias."""
        return {
            "dynamics": self.dynamics.state_dict(),
            "bias": self.bias.state_dict(),
            "turns": self.turns.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.dynamics.load_state_dict(state["dynamics"])
        self.bias.load_state_dict(state["bias"])
        self.turns.load_state_dict(state["turns"])
