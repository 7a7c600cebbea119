"""Harmonic restraints on collective variables (CVs), one centre per walker.

With distance d to the centre, stiffness k in kT and period P, the energy of one CV in kT is

    k d^2 / 2                                (non-periodic CV),
    k (P / 2 pi)^2 (1 - cos(2 pi d / P))     (periodic CV: the same curvature at the centre, smooth everywhere).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from cgbench.contracts.cvs import CollectiveVariables

__all__ = ["HarmonicRestraints"]


class HarmonicRestraints:
    """Restraint energies in kT, summed over the CVs.

    Parameters
    ----------
    cvs
        The CVs and their domain.
    centres
        ``[restraints, cvs]``; row i restrains walker i. The attribute may be replaced at any time.
    stiffness
        Curvature k along each CV, in kT per square of its unit.
    """

    def __init__(self, cvs: CollectiveVariables, centres: torch.Tensor, stiffness: Sequence[float]) -> None:
        self.cvs, self.centres, self.stiffness = cvs, centres, tuple(stiffness)

    def energy(self, s: torch.Tensor) -> torch.Tensor:
        """Restraint energies ``[walkers]`` at ``s [walkers, cvs]``, each walker under its own restraint."""
        return self.between(s, self.centres.to(s))

    def energy_and_gradient(self, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Restraint energies ``[walkers]`` and their gradients ``[walkers, cvs]``."""
        difference = s - self.centres.to(s)
        energy, slopes = torch.zeros_like(s[:, 0]), []
        for axis, k in enumerate(self.stiffness):
            d, scale = difference[:, axis], self._scale(axis)
            if scale is None:
                energy, slope = energy + 0.5 * k * d * d, k * d
            else:
                energy = energy + k * scale**2 * (1.0 - (d / scale).cos())
                slope = k * scale * (d / scale).sin()
            slopes.append(slope)
        return energy, torch.stack(slopes, dim=1)

    def between(self, s: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
        """Energies ``[...]`` at ``s [..., cvs]`` of restraints at ``centres [..., cvs]``; broadcasts."""
        difference = s - centres
        total = torch.zeros_like(difference[..., 0])
        for axis, k in enumerate(self.stiffness):
            d, scale = difference[..., axis], self._scale(axis)
            total = total + (0.5 * k * d * d if scale is None else k * scale**2 * (1.0 - (d / scale).cos()))
        return total

    def _scale(self, axis: int) -> float | None:
        if not self.cvs.periodic[axis]:
            return None
        return (self.cvs.upper[axis] - self.cvs.lower[axis]) / (2 * math.pi)
