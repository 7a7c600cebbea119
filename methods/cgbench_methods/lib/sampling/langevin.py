"""Langevin dynamics of many walkers at once, in the LFMiddle scheme.

With masses m, friction g, time step h, reduced energy u and standard normal R, a step is

    v <- v - h (kT/m) grad u(x)
    x <- x + (h/2) v
    v <- exp(-g h) v + sqrt(1 - exp(-2 g h)) sqrt(kT/m) R
    x <- x + (h/2) v.

In the first line T is the temperature that the energy is reduced at. In the third, each walker may have its own
(`Langevin.set_temperatures`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["BOLTZMANN", "Langevin"]

BOLTZMANN = 0.00831446261815324  # kJ/(mol K)
EnergyAndGradient = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Langevin:
    """Batched Langevin dynamics in the middle scheme (LFMiddle, Zhang et al., J. Phys. Chem. A 123, 6056, 2019).

    This is the scheme of OpenMM's ``LangevinMiddleIntegrator``. A step costs one evaluation per walker. For a harmonic
    oscillator the configurational distribution is exact at any stable time step.

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
    positions
        Starting positions ``[walkers, atoms, 3]`` in nm; the dynamics uses their dtype.
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
        self._relative: torch.Tensor | None = None  # temperatures of the walkers, as `set_temperatures` got them
        self.set_friction(friction)
        self.velocities = self._thermal * self._normal()
        self.energies = positions.new_zeros(len(positions))
        self._valid_state = (self.positions, self.velocities)
        self._begin_block()

    def _begin_block(self) -> None:
        """Note the present state, whose energies are not known yet; `begin_step` keeps it where they are finite."""
        self._start: tuple[torch.Tensor, torch.Tensor] | None = (self.positions, self.velocities)
        self._valid = torch.ones(len(self.positions), dtype=torch.bool, device=self.positions.device)

    def set_friction(self, friction: float) -> None:
        """Change the friction, in 1/ps."""
        self._damp = math.exp(-friction * self._time_step)
        self._set_noise()

    def _set_noise(self) -> None:
        self._noise = math.sqrt(1.0 - self._damp**2) * self._thermal
        if self._relative is not None:
            self._noise = self._noise * self._per_walker(self._relative.sqrt())

    def set_temperatures(self, relative: torch.Tensor) -> None:
        """Give each walker a temperature of its own, and rescale its velocity to it.

        Velocities of the ensemble at the old temperature become velocities of the ensemble at the new one. So do those
        that `restore_diverged` returns to.

        Parameters
        ----------
        relative
            Temperatures of the walkers relative to the one that the energy is reduced at, ``[walkers]``.
        """
        before = 1.0 if self._relative is None else self._relative
        scale = self._per_walker((relative / before).sqrt())
        self._relative = relative
        self._set_noise()
        self.velocities = scale * self.velocities
        self._valid_state = (self._valid_state[0], scale * self._valid_state[1])
        if self._start is not None:
            self._start = (self._start[0], scale * self._start[1])

    def _rows(self, chosen: torch.Tensor) -> torch.Tensor:
        """Return a value for each walker in a shape that fits the positions."""
        return chosen.reshape(-1, *(1,) * (self.positions.dim() - 1))

    def _per_walker(self, values: torch.Tensor) -> torch.Tensor:
        return self._rows(values.to(self.positions))

    def _normal(self) -> torch.Tensor:
        x = self.positions
        return torch.randn(x.shape, generator=self.generator, dtype=x.dtype, device=x.device)

    def step(self, steps: int = 1) -> None:
        """Advance all walkers; `energies` are those at the start of the last step."""
        for _ in range(steps):
            self.finish_step(self.begin_step())

    def begin_step(self) -> torch.Tensor:
        """Evaluate `energies` of the present positions, and return the gradient that `finish_step` needs."""
        self.energies, gradient = self.energy_and_gradient(self.positions)
        finite = self.energies.isfinite()
        if self._start is not None:  # the first step of a block
            rows = self._rows(finite)
            (x, v), (kept_x, kept_v) = self._start, self._valid_state
            self._valid_state = torch.where(rows, x, kept_x), torch.where(rows, v, kept_v)
            self._start = None
        self._valid = self._valid & finite
        return gradient

    def finish_step(self, gradient: torch.Tensor) -> None:
        """Move the walkers by one step, with the gradient at their positions."""
        velocities = self.velocities + self._kick * gradient
        positions = self.positions + self._half * velocities
        velocities = self._damp * velocities + self._noise * self._normal()
        self.velocities = velocities
        self.positions = positions + self._half * velocities

    def replace(self, chosen: torch.Tensor, positions: torch.Tensor, energies: torch.Tensor) -> None:
        """Put the chosen walkers at other positions, with new velocities; a block of steps begins.

        Parameters
        ----------
        chosen
            Boolean ``[walkers]``.
        positions, energies
            New positions ``[walkers, atoms, 3]`` and their reduced energies ``[walkers]``; of the chosen ones alone.
        """
        velocities = self._thermal * self._normal()
        if self._relative is not None:
            velocities = self._per_walker(self._relative.sqrt()) * velocities
        rows = self._rows(chosen)
        self.positions = torch.where(rows, positions.to(self.positions), self.positions)
        self.velocities = torch.where(rows, velocities, self.velocities)
        self.energies = torch.where(chosen, energies.to(self.energies), self.energies)
        self._begin_block()

    def restore_diverged(self) -> torch.Tensor:
        """End a block of steps, restore diverged walkers, and return which they are, ``[walkers]``.

        A walker has diverged if its position, or any of its energies in the block, is not finite. It continues from the
        last start of a block where its energy was finite, mostly that of this block. Its velocity is reversed, as after
        a rejected move of generalised hybrid Monte Carlo (Horowitz, Phys. Lett. B 268, 247, 1991), which leaves the
        ensemble invariant. The call does not wait for the device.
        """
        diverged = ~(self._valid & self.positions.flatten(1).isfinite().all(dim=1))
        chosen = self._rows(diverged)
        positions, velocities = self._valid_state
        self.positions = torch.where(chosen, positions, self.positions)
        self.velocities = torch.where(chosen, -velocities, self.velocities)
        self._begin_block()
        return diverged

    def state_dict(self) -> dict[str, Any]:
        """Return positions and velocities, now and of the last valid state.

        The owner of the generator saves its state, and that of the temperatures.
        """
        positions, velocities = self._valid_state
        return {
            "positions": self.positions,
            "velocities": self.velocities,
            "valid_positions": positions,
            "valid_velocities": velocities,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        device = self.positions.device
        kept = {name: tensor.to(device, copy=True) for name, tensor in state.items()}
        self.positions, self.velocities = kept["positions"], kept["velocities"]
        self._valid_state = (  # older checkpoints do not have it
            kept.get("valid_positions", self.positions),
            kept.get("valid_velocities", self.velocities),
        )
        self._begin_block()
