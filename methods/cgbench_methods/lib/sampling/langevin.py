"""Langevin dynamics of many walkers at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["BOLTZMANN", "Langevin"]

BOLTZMANN = 0.00831446261815324  # kJ/(mol K)
EnergyAndGradient = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Langevin:
    """Batched Langevin dynamics in the middle scheme (LFMiddle, Zhang et al., J. Phys. Chem. A 2019).

    The scheme of OpenMM's ``LangevinMiddleIntegrator``: a full kick, half a drift, friction and noise, half
    a drift. One step costs one evaluation per walker. For a harmonic oscillator the configurational
    distribution is exact for any stable time step.

    Parameters
    ----------
    energy_and_gradient
        Reduced energies ``[walkers]`` and gradients of positions ``[walkers, atoms, 3]``.
    masses
        In dalton, ``[atoms]``.
    temperature
        In kelvin.
    time_step, friction
        In ps and 1/ps.
    positions
        Starting positions ``[walkers, atoms, 3]`` in nm; their dtype is that of the dynamics.
    generator
        Source of velocities and noise.
    """

    def __init__(
        self,
        energy_and_gradient: EnergyAndGradient,
        masses: torch.Tensor,
        temperature: float,
        *,
        time_step: float,
        friction: float,
        positions: torch.Tensor,
        generator: torch.Generator,
    ) -> None:
        self.energy_and_gradient = energy_and_gradient
        self.generator = generator
        self.positions = positions.clone()
        kt = BOLTZMANN * temperature
        inverse_mass = (1.0 / masses).to(positions)[:, None]
        self._kick = -time_step * kt * inverse_mass
        self._half = 0.5 * time_step
        self._time_step = time_step
        self._thermal = (kt * inverse_mass).sqrt()
        self.set_friction(friction)
        self.velocities = self._thermal * self._normal()
        self.energies = positions.new_zeros(len(positions))
        self._begin_block()

    def _begin_block(self) -> None:
        """Remember where the walkers are; nothing is copied, as every step makes new tensors."""
        self._kept = (self.positions, self.velocities)
        self._sound = torch.ones(len(self.positions), dtype=torch.bool, device=self.positions.device)

    def set_friction(self, friction: float) -> None:
        """Change the friction, in 1/ps."""
        self._damp = math.exp(-friction * self._time_step)
        self._noise = math.sqrt(1.0 - self._damp**2) * self._thermal

    def _normal(self) -> torch.Tensor:
        x = self.positions
        return torch.randn(x.shape, generator=self.generator, dtype=x.dtype, device=x.device)

    def step(self, steps: int = 1) -> None:
        """Advance all walkers; `energies` are those before the last step's move."""
        for _ in range(steps):
            self.energies, gradient = self.energy_and_gradient(self.positions)
            self._sound = self._sound & self.energies.isfinite()
            velocities = self.velocities + self._kick * gradient
            positions = self.positions + self._half * velocities
            velocities = self._damp * velocities + self._noise * self._normal()
            self.velocities = velocities
            self.positions = positions + self._half * velocities

    def put_back_lost(self) -> torch.Tensor:
        """End a block of steps: put lost walkers back to where they were when it began, and say which, ``[walkers]``.

        A walker is lost if its position is not finite, or if any energy of the block was not: nothing held it then.
        It goes on with its velocity turned round, as after a rejected move of generalised hybrid Monte Carlo (Horowitz,
        Phys. Lett. B 268, 247, 1991), which would leave the ensemble as it is. Nothing waits for a device.
        """
        lost = ~(self._sound & self.positions.flatten(1).isfinite().all(dim=1))
        chosen = lost.reshape(-1, *(1,) * (self.positions.dim() - 1))
        positions, velocities = self._kept
        self.positions = torch.where(chosen, positions, self.positions)
        self.velocities = torch.where(chosen, -velocities, self.velocities)
        self._begin_block()
        return lost

    def state_dict(self) -> dict[str, Any]:
        """Positions and velocities; the generator's state belongs to its owner."""
        return {"positions": self.positions, "velocities": self.velocities}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        device = self.positions.device
        self.positions, self.velocities = (state[name].to(device, copy=True) for name in ("positions", "velocities"))
        self._begin_block()
