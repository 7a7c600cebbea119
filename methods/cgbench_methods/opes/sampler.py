"""Walkers that share one set of kernels: dynamics under the bias, samples, and deposits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.maps import columns
from cgbench.errors import UserError
from cgbench_methods.lib.sampling.chosen import BiasOnChosen, chosen_axes
from cgbench_methods.lib.sampling.turns import Turns
from cgbench_methods.lib.sampling.walkers import advance, walkers_at_start
from cgbench_methods.opes.kernels import Kernels
from cgbench_methods.opes.table import BiasTable, KernelSums

if TYPE_CHECKING:
    from cgbench.contracts.problem import Problem
    from cgbench_methods.opes.config import OPESConfig

__all__ = ["SharedWalkers"]

Array = NDArray[np.float64]
RESOLUTION = 2.0  # intervals of the table per smallest width of a kernel


class SharedWalkers:
    """All walkers in one batch, under the bias of the kernels that they deposit together.

    Before `start` the bias is constant.

    Parameters
    ----------
    problem
        The system.
    config
        Settings.
    generator
        Source of all randomness.

    Attributes
    ----------
    cvs, axes
        The biased CVs, and their indices among those of the system.
    kernels
        None before `start`.
    turns
        Counts of the turns of side chains.
    """

    def __init__(self, problem: Problem, config: OPESConfig, generator: torch.Generator) -> None:
        self.problem, self.config = problem, config
        self.axes = chosen_axes(problem.cvs, config.cvs, "opes")
        self.cvs = problem.cvs.subset(self.axes)
        if config.sigma is not None and len(config.sigma) != len(self.cvs):
            raise UserError(
                f"method opes, key 'sigma': give one width per biased CV, {len(self.cvs)} for "
                f"{', '.join(self.cvs.names)}, not {len(config.sigma)}"
            )
        intervals = [int(np.ceil(RESOLUTION / config.smallest(self.cvs)))] * len(self.cvs)
        self.table = BiasTable(self.cvs, intervals, -config.barrier)
        self.kernels: Kernels | None = None
        self._sums: KernelSums
        self._spread = np.zeros((3, len(self.cvs)))  # number, sum and sum of squares of the distances from the start
        self.dynamics = walkers_at_start(problem, config, generator, BiasOnChosen(self.table, self.axes))
        start = problem.collective_variables(problem.initial_configuration()[None])
        self._origin = start.double().cpu().numpy()[:, list(self.axes)]
        self._unusable = torch.zeros(config.walkers, dtype=torch.bool, device=problem.device)
        self.turns = Turns(problem, config.walkers)

    def advance(self, steps: int) -> None:
        """Advance all walkers under the present bias."""
        self._unusable = advance(self.problem, self.dynamics, steps)
        self.turns.note(self.dynamics.positions, steps)

    def sample(self) -> tuple[Array, Array]:
        """Collective variables of the system ``[walkers, cvs]`` and bias ``[walkers]`` in kT; NaN if unusable."""
        s = self.problem.collective_variables(self.dynamics.positions).double()
        s = s.masked_fill(self._unusable[:, None], torch.nan)
        return s.cpu().numpy(), self.table.energy(columns(s, self.axes)).cpu().numpy()

    def note_spread(self, s: Array) -> None:
        """Add a sample ``[walkers, cvs]`` to the spread that `start` uses."""
        delta = self.cvs.difference(s[:, list(self.axes)], self._origin)
        delta = delta[np.isfinite(delta).all(1)]
        self._spread += np.stack([np.full(delta.shape[1], len(delta)), delta.sum(0), (delta**2).sum(0)])

    def start(self) -> None:
        """Begin with kernels of the configured width, or of the width that was measured."""
        least, widths = self.config.least_widths(self.cvs), self.config.sigma
        if widths is None:
            number, total, squares = self._spread
            count = np.maximum(number, 1.0)
            widths = tuple(np.sqrt(np.maximum(squares / count - (total / count) ** 2, np.square(least))).tolist())
        self._begin(Kernels(self.cvs, self.config.shape, widths, least))

    def _begin(self, kernels: Kernels) -> None:
        self.kernels, self._sums = kernels, KernelSums(kernels, self.table.intervals)

    def deposit(self, s: Array, bias: Array) -> None:
        """Add a kernel for each usable walker within the domain, and change the bias.

        Parameters
        ----------
        s, bias
            What `sample` returned.
        """
        assert self.kernels is not None
        chosen = columns(s, self.axes)
        usable = (self.cvs.bin_index(chosen) >= 0) & np.isfinite(s).all(1) & np.isfinite(bias)
        if not usable.any():
            return
        self._sums.update(self.kernels.deposit(chosen[usable], bias[usable]))
        self._set_table()

    def _set_table(self) -> None:
        assert self.kernels is not None
        if len(self.kernels):
            self.table.set(self.kernels.bias_of(self._sums.values))

    def bias_on_grid(self) -> Array:
        """Bias in kT at the bin centres of the biased CVs."""
        return self.table.energy(torch.from_numpy(self.cvs.grid())).numpy().reshape(self.cvs.bins)

    def state_dict(self) -> dict[str, Any]:
        """Return walkers, kernels and their sums."""
        return {
            "dynamics": self.dynamics.state_dict(),
            "turns": self.turns.state_dict(),
            "spread": torch.from_numpy(self._spread.copy()),
            "kernels": None if self.kernels is None else self.kernels.state_dict(),
            "sums": None if self.kernels is None else torch.from_numpy(self._sums.values.copy()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.dynamics.load_state_dict(state["dynamics"])
        self.turns.load_state_dict(state["turns"])
        self._spread = state["spread"].numpy().copy()
        if state["kernels"] is not None:
            self.start()
            assert self.kernels is not None
            self.kernels.load_state_dict(state["kernels"])
            self._sums.values = state["sums"].numpy().copy()
            self._set_table()
