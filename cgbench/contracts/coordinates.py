"""Coordinates: a bijection between configurations and (collective variables, fine-grained coordinates)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["Coordinates", "free_torsions"]

FULL_CIRCLE = 2 * math.pi - 1e-6


class Coordinates(ABC):
    """A bijection between configurations ``x`` (up to rigid motion) and ``(s, y)``.

    ``s`` are the collective variables. ``y`` are the remaining, fine-grained coordinates in scaled units: about one
    thermal width where not periodic, radians where periodic.

    Attributes
    ----------
    names
        Name of each fine-grained coordinate.
    periodic
        Whether each fine-grained coordinate is periodic, boolean ``[fine]``.
    lower, upper
        Domain of each fine-grained coordinate, ``[fine]``, float64; one period where periodic. A `y` outside its
        domain does not correspond to a configuration (a negative distance, for example).
    symmetry_number
        Number of configurations that have the same `(s, y)` because they differ only by an exchange of identical
        atoms.
    """

    names: tuple[str, ...]
    periodic: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor
    symmetry_number: int = 1

    @abstractmethod
    def to_cartesian(self, s: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Convert ``(s, y)`` to configurations.

        Parameters
        ----------
        s
            Collective variables, ``[batch, cvs]``.
        y
            Fine-grained coordinates, ``[batch, fine]``.

        Returns
        -------
        x, log_abs_det_jacobian
            Configurations, and ``ln|det dx/d(s, y)|`` ``[batch]`` up to a constant (rigid motion
            integrated out). Differentiable.
        """

    @abstractmethod
    def to_internal(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Convert configurations to ``(s, y)``: the inverse of `to_cartesian`.

        Returns
        -------
        s, y, log_abs_det_jacobian
            The last is ``ln|det d(s, y)/dx|``, the negative of the one that `to_cartesian` returns.
        """

    def in_domain(self, y: torch.Tensor) -> torch.Tensor:
        """Whether each ``y`` ``[batch, fine]`` is between `lower` and `upper`, boolean ``[batch]``."""
        lower, upper = self.lower.to(y), self.upper.to(y)
        inside: torch.Tensor = ((y >= lower) & (y <= upper) | self.periodic.to(y.device)).all(dim=-1)
        return inside

    @abstractmethod
    def in_state_space(self, x: torch.Tensor) -> torch.Tensor:
        """Whether each configuration belongs to the system's state space (chirality, for example), ``[batch]``."""


def free_torsions(coordinates: Coordinates) -> torch.Tensor:
    """Return the positions in `y` of the torsions that turn by a full circle ``[torsions]``.

    The torsions of groups of equal atoms are folded to a fraction of the circle, with one well, and not among them.
    """
    full = coordinates.upper - coordinates.lower > FULL_CIRCLE
    return (coordinates.periodic & full).nonzero().squeeze(1)
