"""Random-walk Metropolis sampling of many walkers at once.

A proposal ``x' = x + step_size R`` with standard normal R is accepted with probability
``min(1, exp(u(x) + V(x) - u(x') - V(x')))``, where u is the reduced energy and V a bias in kT. A walker at another
temperature T than the T0 of the reduced energy has u T0/T in place of u, and the step size times ``sqrt(T/T0)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["Metropolis"]


class Metropolis:
    """Batched Metropolis sampling with Gaussian proposals, for systems without masses.

    Every proposal of every walker is one evaluation; the starting points are evaluated once. Proposals with infinite or
    NaN energy or bias are rejected.

    Parameters
    ----------
    energy
        Reduced energies ``[walkers]`` of positions ``[walkers, ...]``.
    positions
        Starting positions.
    step_size
        Standard deviation of the proposal in every coordinate.
    generator
        Source of proposals and acceptances.
    bias
        Bias ``[walkers]`` in kT of positions, or None. It costs no evaluation and may change at any time: both sides of
        every comparison are computed with the present bias.
    """

    def __init__(
        self,
        energy: Callable[[torch.Tensor], torch.Tensor],
        positions: torch.Tensor,
        step_size: float,
        generator: torch.Generator,
        bias: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self.energy, self.step_size, self.generator, self.bias = energy, step_size, generator, bias
        self.positions = positions.clone()
        self.energies: torch.Tensor | None = None
        self.accepted = 0.0
        self._relative: torch.Tensor | None = None  # temperatures of the walkers, as `set_temperatures` got them

    def set_temperatures(self, relative: torch.Tensor) -> None:
        """Give each walker a temperature of its own, relative to that of the reduced energy, ``[walkers]``."""
        self._relative = relative.to(self.positions)

    def step(self, steps: int = 1) -> None:
        """Propose and accept or reject `steps` times."""
        x = self.positions
        options: dict[str, Any] = {"generator": self.generator, "dtype": x.dtype, "device": x.device}
        if self.energies is None:
            self.energies = self.energy(self.positions)
        shape = (-1, *(1,) * (x.dim() - 1))
        width: float | torch.Tensor = self.step_size
        if self._relative is not None:
            width = width * self._relative.sqrt().reshape(shape)
        for _ in range(steps):
            proposal = self.positions + width * torch.randn(self.positions.shape, **options)
            energies = self.energy(proposal)
            uniform = torch.rand(len(proposal), **options)
            drop = self.energies - energies
            if self._relative is not None:
                drop = drop / self._relative
            if self.bias is not None:
                drop = drop + self.bias(self.positions) - self.bias(proposal)
            accept = uniform.log() < drop
            self.positions = torch.where(accept.reshape(shape), proposal, self.positions)
            self.energies = torch.where(accept, energies, self.energies)
            self.accepted = float(accept.double().mean())

    def replace(self, chosen: torch.Tensor, positions: torch.Tensor, energies: torch.Tensor) -> None:
        """Put the chosen walkers ``[walkers]`` at other positions, whose reduced energies are ``[walkers]``."""
        rows = chosen.reshape(-1, *(1,) * (self.positions.dim() - 1))
        self.positions = torch.where(rows, positions.to(self.positions), self.positions)
        if self.energies is not None:
            self.energies = torch.where(chosen, energies.to(self.energies), self.energies)

    def restore_diverged(self) -> torch.Tensor:
        """Return which walkers have no finite energy, ``[walkers]``: they started so and have not moved since.

        Nothing has to be restored, because moves to non-finite energies are rejected.
        """
        if self.energies is None:
            return torch.zeros(len(self.positions), dtype=torch.bool, device=self.positions.device)
        return ~self.energies.isfinite()

    def state_dict(self) -> dict[str, Any]:
        """Return positions and their energies without the bias; the owner of the temperatures saves them."""
        return {"positions": self.positions, "energies": self.energies}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        device, energies = self.positions.device, state["energies"]
        self.positions = state["positions"].to(device)
        self.energies = None if energies is None else energies.to(device)
