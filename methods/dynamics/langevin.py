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
            velocities = self.velocities + self._kick * gradient
            positions = self.positions + self._half * velocities
            velocities = self._damp * velocities + self._noise * self._normal()
            self.velocities = velocities
            self.positions = positions + self._half * velocities

    def state_dict(self) -> dict[str, Any]:
        """Positions and velocities; the generator's state belongs to its owner."""
        return {"positions": self.positions, "velocities": self.velocities}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.positions, self.velocities = state["positions"].clone(), state["velocities"].clone()
