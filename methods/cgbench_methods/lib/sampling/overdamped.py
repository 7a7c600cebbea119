"""Overdamped Langevin dynamics of many walkers at once, and its Metropolis-adjusted form (MALA).

With the step size a, reduced energy u and standard normal R, both propose

    x' = x - (a^2 / 2) grad u(x) + a R,

which is the Euler-Maruyama scheme. Overdamped Langevin dynamics accepts every proposal. Its distribution differs from
the exact one by a term of order a^2: in a harmonic well ``u = k x^2 / 2`` the variance is ``1 / (k (1 - a^2 k / 4))``.
MALA accepts with probability ``min(1, exp(u(x) - u(x')) q(x | x') / q(x' | x))``, where q is the density of a proposal,
and its distribution is exact (Roberts and Tweedie, Bernoulli 2, 341, 1996).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["Overdamped"]

EnergyAndGradient = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Overdamped:
    """Batched overdamped Langevin dynamics or MALA, for systems without masses.

    Every step of every walker is one evaluation; the starting points are evaluated once.

    Parameters
    ----------
    energy_and_gradient
        Reduced energies ``[walkers]`` and gradients of positions ``[walkers, ...]``.
    positions
        Starting positions.
    step_size
        Standard deviation of the noise in every coordinate.
    generator
        Source of noise and acceptances.
    adjusted
        Whether proposals are accepted or rejected (MALA).
    """

    def __init__(
        self,
        energy_and_gradient: EnergyAndGradient,
        positions: torch.Tensor,
        step_size: float,
        generator: torch.Generator,
        adjusted: bool,
    ) -> None:
        self.energy_and_gradient, self.step_size, self.generator = energy_and_gradient, step_size, generator
        self.adjusted = adjusted
        self.positions = positions.clone()
        self.energies: torch.Tensor | None = None
        self._gradients = torch.zeros_like(self.positions)
        self._valid = torch.ones(len(positions), dtype=torch.bool, device=positions.device)
        self._kept: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None  # at the start of the block
        self.accepted = 1.0

    def step(self, steps: int = 1) -> None:
        """Advance all walkers by `steps`."""
        x = self.positions
        options: dict[str, Any] = {"generator": self.generator, "dtype": x.dtype, "device": x.device}
        if self.energies is None:
            self.energies, self._gradients = self.energy_and_gradient(x)
        if self._kept is None:
            self._kept = self.positions, self.energies, self._gradients
        drift = 0.5 * self.step_size**2
        for _ in range(steps):
            noise = torch.randn(self.positions.shape, **options)
            proposal = self.positions - drift * self._gradients + self.step_size * noise
            energies, gradients = self.energy_and_gradient(proposal)
            if not self.adjusted:
                self.positions, self.energies, self._gradients = proposal, energies, gradients
                self._valid = self._valid & energies.isfinite()
                continue
            back = (self.positions - proposal + drift * gradients) / self.step_size
            log_ratio = 0.5 * (noise**2 - back**2).flatten(1).sum(1)
            accept = torch.rand(len(proposal), **options).log() < self.energies - energies + log_ratio
            shape = (-1, *(1,) * (x.dim() - 1))
            self.positions = torch.where(accept.reshape(shape), proposal, self.positions)
            self._gradients = torch.where(accept.reshape(shape), gradients, self._gradients)
            self.energies = torch.where(accept, energies, self.energies)
            self.accepted = float(accept.double().mean())

    def restore_diverged(self) -> torch.Tensor:
        """End a block of steps, restore diverged walkers to its start, and return which they are, ``[walkers]``.

        A walker has diverged if an energy of the block, or its position, is not finite. MALA rejects such proposals.
        """
        if self.energies is None or self._kept is None:
            return torch.zeros(len(self.positions), dtype=torch.bool, device=self.positions.device)
        diverged = ~(self._valid & self.energies.isfinite() & self.positions.flatten(1).isfinite().all(dim=1))
        chosen = diverged.reshape(-1, *(1,) * (self.positions.dim() - 1))
        positions, energies, gradients = self._kept
        self.positions = torch.where(chosen, positions, self.positions)
        self._gradients = torch.where(chosen, gradients, self._gradients)
        self.energies = torch.where(diverged, energies, self.energies)
        self._valid = torch.ones_like(diverged)
        self._kept = None
        return diverged

    def state_dict(self) -> dict[str, Any]:
        """Return positions, energies and gradients; taken between blocks."""
        return {"positions": self.positions, "energies": self.energies, "gradients": self._gradients}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        device, energies = self.positions.device, state["energies"]
        self.positions, self._gradients = (state[name].to(device) for name in ("positions", "gradients"))
        self.energies = None if energies is None else energies.to(device)
        self._kept = None
