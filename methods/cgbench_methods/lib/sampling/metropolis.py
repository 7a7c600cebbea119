"""Random-walk Metropolis sampling of many walkers at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["Metropolis"]


class Metropolis:
    """Batched Metropolis sampling with Gaussian proposals, for systems without masses.

    Every proposal of every walker is one evaluation; the starting points are evaluated once. A proposal whose energy
    or bias is infinite or not a number is rejected.

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
        Bias ``[walkers]`` in kT of positions, or None. It is free of charge and computed anew for both sides of
        every comparison, so that it may change at any time.
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

    def step(self, steps: int = 1) -> None:
        """Propose and accept or reject `steps` times."""
        x = self.positions
        options: dict[str, Any] = {"generator": self.generator, "dtype": x.dtype, "device": x.device}
        if self.energies is None:
            self.energies = self.energy(self.positions)
        for _ in range(steps):
            proposal = self.positions + self.step_size * torch.randn(self.positions.shape, **options)
            energies = self.energy(proposal)
            uniform = torch.rand(len(proposal), **options)
            drop = self.energies - energies
            if self.bias is not None:
                drop = drop + self.bias(self.positions) - self.bias(proposal)
            accept = uniform.log() < drop
            shape = (-1, *(1,) * (proposal.dim() - 1))
            self.positions = torch.where(accept.reshape(shape), proposal, self.positions)
            self.energies = torch.where(accept, energies, self.energies)
            self.accepted = float(accept.double().mean())

    def put_back_lost(self) -> torch.Tensor:
        """Say which walkers have no finite energy, ``[walkers]``; they started so, and have found no better place yet.

        No walker has to be put back: none ever moves to where the energy is not finite.
        """
        if self.energies is None:
            return torch.zeros(len(self.positions), dtype=torch.bool, device=self.positions.device)
        return ~self.energies.isfinite()

    def state_dict(self) -> dict[str, Any]:
        """Positions and their energies, which do not contain the bias."""
        return {"positions": self.positions, "energies": self.energies}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        device, energies = self.positions.device, state["energies"]
        self.positions = state["positions"].to(device)
        self.energies = None if energies is None else energies.to(device)
