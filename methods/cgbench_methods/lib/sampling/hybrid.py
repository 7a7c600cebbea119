"""Generalised hybrid Monte Carlo of many walkers at once: molecular dynamics without an error of its time step.

With masses m, friction g, time step h, trajectories of L steps, reduced energy u and standard normal R, a move is

    v <- c v + sqrt(1 - c^2) sqrt(kT/m) R,    c = exp(-g L h)
    (x', v') = L steps of velocity Verlet from (x, v)
    with probability min(1, exp(H(x, v) - H(x', v'))), H = u + m v^2 / (2 kT):  x, v <- x', v';  otherwise v <- -v

(Horowitz, Phys. Lett. B 268, 247, 1991). Its stationary distribution is exp(-u) for any time step.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from cgbench_methods.lib.sampling.langevin import BOLTZMANN, EnergyAndGradient

__all__ = ["HybridMonteCarlo"]


class HybridMonteCarlo:
    """Batched generalised hybrid Monte Carlo. A move costs `length` evaluations per walker.

    The error of the energy in a trajectory does not grow with its length, while every rejection reverses a velocity:
    longer trajectories diffuse faster.

    Attributes
    ----------
    positions, velocities
        Present state of the walkers, ``[walkers, ...]``.
    energies
        Reduced energies of the positions ``[walkers]``.
    accepted
        Share of accepted moves in the last call of `step`.

    Parameters
    ----------
    energy_and_gradient
        Reduced energies ``[walkers]`` and gradients of positions ``[walkers, atoms, 3]``.
    masses
        Atomic masses in dalton, ``[atoms]``.
    temperature
        Temperature in kelvin.
    time_step, friction
        Time step in ps and friction in 1/ps.
    length
        Steps of a trajectory.
    positions
        Starting positions ``[walkers, atoms, 3]`` in nm; the dynamics uses their dtype.
    generator
        Source of velocities and acceptances.
    """

    def __init__(
        self,
        energy_and_gradient: EnergyAndGradient,
        masses: torch.Tensor,
        temperature: float,
        *,
        time_step: float,
        friction: float,
        length: int,
        positions: torch.Tensor,
        generator: torch.Generator,
    ) -> None:
        self.energy_and_gradient, self.generator, self.length = energy_and_gradient, generator, length
        self.positions = positions.clone()
        variance = BOLTZMANN * temperature * (1.0 / masses).to(positions)[:, None]
        self._time_step, self._kick, self._thermal = time_step, -time_step * variance, variance.sqrt()
        self._damp = math.exp(-friction * length * time_step)
        self.velocities = self._thermal * self._normal()
        self.energies, self._gradient = energy_and_gradient(self.positions)
        self.accepted = 0.0

    def _normal(self) -> torch.Tensor:
        x = self.positions
        return torch.randn(x.shape, generator=self.generator, dtype=x.dtype, device=x.device)

    def _kinetic(self, velocities: torch.Tensor) -> torch.Tensor:
        return 0.5 * (velocities / self._thermal).square().flatten(1).sum(dim=1)

    def step(self, moves: int = 1) -> None:
        """Make `moves` moves of every walker."""
        accepted = 0.0
        for _ in range(moves):
            before = self._damp * self.velocities + math.sqrt(1.0 - self._damp**2) * self._thermal * self._normal()
            x, v, energy, gradient = self.positions, before, self.energies, self._gradient
            for _ in range(self.length):
                v = v + 0.5 * self._kick * gradient
                x = x + self._time_step * v
                energy, gradient = self.energy_and_gradient(x)
                v = v + 0.5 * self._kick * gradient
            uniform = torch.rand(len(x), generator=self.generator, dtype=x.dtype, device=x.device)
            drop = (self.energies - energy) + (self._kinetic(before) - self._kinetic(v))
            accept = uniform.log() < drop  # never with an energy that is NaN
            chosen = accept.reshape(-1, *(1,) * (x.dim() - 1))
            self.positions = torch.where(chosen, x, self.positions)
            self.velocities = torch.where(chosen, v, -before)
            self.energies = torch.where(accept, energy, self.energies)
            self._gradient = torch.where(chosen, gradient, self._gradient)
            accepted += float(accept.double().mean())
        self.accepted = accepted / moves

    def state_dict(self) -> dict[str, Any]:
        """Return positions, velocities, energies and gradients; the owner of the generator saves its state."""
        return {
            "positions": self.positions,
            "velocities": self.velocities,
            "energies": self.energies,
            "gradient": self._gradient,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        device = self.positions.device
        names = ("positions", "velocities", "energies", "gradient")
        self.positions, self.velocities, self.energies, self._gradient = (state[name].to(device) for name in names)
