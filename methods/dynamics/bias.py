"""Bias potentials on periodic collective variables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["FourierBias"]


class FourierBias:
    """A smooth bias on two angles, ``V(phi, psi)`` in kT, as a truncated Fourier series.

    Smooth to all orders and exactly periodic, so that forces are the exact gradient of the energy by which
    samples are reweighted. Hills are added through their Fourier transform: any number at once costs
    one transform of a histogram.

    Parameters
    ----------
    order
        Largest wave number along each angle.
    bins
        Bins per angle of the histogram that deposits hills.
    """

    def __init__(self, order: int = 12, bins: int = 72) -> None:
        self.order, self.bins = order, bins
        self.modes = torch.arange(-order, order + 1, dtype=torch.float64)
        self.coefficients = torch.zeros(2 * order + 1, 2 * order + 1, dtype=torch.complex128)

    def _wave(self, angle: torch.Tensor) -> torch.Tensor:
        phase = angle[:, None] * self.modes.to(angle)
        return torch.complex(phase.cos(), phase.sin())

    def energy_and_gradient(self, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bias ``[batch]`` and its gradient ``[batch, 2]`` at ``s [batch, 2]``."""
        first, second = self._wave(s[:, 0]), self._wave(s[:, 1])
        modes = self.modes.to(s)
        half = first @ self.coefficients.to(first)
        by_first = (1j * modes * first) @ self.coefficients.to(first)
        energy = (half * second).sum(1).real
        gradient = torch.stack([(by_first * second).sum(1).real, (half * (1j * modes * second)).sum(1).real], dim=1)
        return energy, gradient

    def energy(self, s: torch.Tensor) -> torch.Tensor:
        """Bias ``[batch]`` at ``s [batch, 2]``."""
        half = self._wave(s[:, 0]) @ self.coefficients.to(self._wave(s[:1, 0]))
        return (half * self._wave(s[:, 1])).sum(1).real

    def deposit(self, s: torch.Tensor, heights: torch.Tensor, width: float) -> None:
        """Add Gaussian hills of the given heights (kT) and one width (rad) at ``s [hills, 2]``."""
        cells = torch.remainder((s.double() + math.pi) / (2 * math.pi) * self.bins, self.bins).long()
        flat = cells.clamp(max=self.bins - 1)
        histogram = torch.zeros(self.bins * self.bins, dtype=torch.float64)
        histogram.index_add_(0, flat[:, 0] * self.bins + flat[:, 1], heights.double())
        centre = -math.pi + (torch.arange(self.bins, dtype=torch.float64) + 0.5) * 2 * math.pi / self.bins
        wave = torch.exp(-1j * self.modes[:, None] * centre[None])
        transform = wave @ histogram.reshape(self.bins, self.bins).to(wave) @ wave.T
        smooth = torch.exp(-0.5 * width**2 * self.modes**2)
        volume = 2 * math.pi * width**2 / (2 * math.pi) ** 2
        self.coefficients = self.coefficients + volume * transform * smooth[:, None] * smooth[None]

    def biased(
        self,
        energy_and_gradient: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
        collective_variables: Callable[[torch.Tensor], torch.Tensor],
    ) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
        """Return energy and gradient of the biased system; the last CVs and bias are kept in `last`."""

        def evaluate(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            energy, gradient = energy_and_gradient(x)
            leaf = x.detach().requires_grad_()
            with torch.enable_grad():
                s = collective_variables(leaf)
                bias, slope = self.energy_and_gradient(s.detach())
                (pull,) = torch.autograd.grad(s, leaf, slope)
            self.last: Any = (s.detach(), bias)
            return energy + bias, gradient + pull

        return evaluate
