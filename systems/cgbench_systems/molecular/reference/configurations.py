"""Configurations constructed from the internal coordinates: fixed ones, and relaxed starts at given CVs."""

from __future__ import annotations

import numpy as np
import torch

from cgbench.contracts.coordinates import Coordinates
from cgbench.contracts.pmf import basin_mask
from cgbench.contracts.reference import Reference
from cgbench.contracts.system import System

__all__ = ["HEATING_FRICTION", "fixed_configurations", "relaxed"]

HEATING_FRICTION = 10.0  # 1/ps, in which relaxed configurations are heated


def fixed_configurations(system: System, reference: Reference) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the CVs ``[basins, cvs]`` and positions ``[basins, atoms, 3]`` whose energies the certificate states.

    They are at the lowest bin of every basin of the reference, with the fine-grained coordinates at zero.
    """
    cvs, probability = system.cvs, reference.pmf.probability
    masks = [basin_mask(cvs, basin.contains) for basin in system.basins]
    lowest = [int(np.where(mask, probability, 0.0).argmax()) for mask in masks]
    s = torch.from_numpy(cvs.grid())[lowest]
    x, _ = system.coordinates.to_cartesian(s, torch.zeros(len(s), len(system.coordinates.names), dtype=torch.float64))
    return s, x


def relaxed(
    system: System, s: torch.Tensor, steps: int = 150, rate: float = 0.05, start: torch.Tensor | None = None
) -> torch.Tensor:
    """Return configurations at given CVs ``[batch, cvs]`` with the other coordinates relaxed to near a minimum.

    The other coordinates begin at `start` ``[batch, coordinates]``, by default at zero.
    """
    coordinates: Coordinates = system.coordinates
    y = torch.zeros(len(s), len(coordinates.names), dtype=torch.float64, device=s.device)
    y = (y if start is None else start.to(y, copy=True)).requires_grad_()
    lowest = system.reduced_energy(system.initial_configuration()[None])
    optimiser = torch.optim.Adam([y], lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        x, _ = coordinates.to_cartesian(s, y)
        energy = system.reduced_energy(x)
        torch.log1p((energy - lowest + 20.0).clamp(min=0.0)).sum().backward()
        assert y.grad is not None
        y.grad.nan_to_num_()
        optimiser.step()
    with torch.no_grad():
        x, _ = coordinates.to_cartesian(s, y)
    return x.detach()
