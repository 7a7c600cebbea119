"""Coordinates: a bijection between configurations and collective variables with the fine-grained rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["Coordinates"]


class Coordinates(ABC):
    """A bijection between configurations ``x`` (up to rigid motion) and ``(s, y)``.

    ``s`` are the collective variables, ``y`` the fine-grained rest in scaled units: about one thermal
    width where not periodic, radians where periodic.

    Attributes
    ----------
    names
        Name of each fine-grained coordinate.
    periodic
        Which fine-grained coordinates are periodic, boolean ``[fine]``.
    lower, upper
        Domain of each fine-grained coordinate, ``[fine]``, float64; one period where periodic. A `y`
        outside is no configuration at all (a negative distance, say).
    symmetry_number
        How many configurations, equal but for an exchange of equal atoms, have the same `(s, y)`.
    """

    names: tuple[str, ...]
    periodic: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor
    symmetry_number: int = 1

    @abstractmethod
    def to_cartesian(self, s: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Build configurations.

        Parameters
        ----------
        s
            Collective variables, ``[batch, cvs]``.
        y
            Fine-grained coordinates, ``[batch, fine]``.

        Returns
        -------
        x, log_abs_det_jacobian
            Configurations, and ``ln|det dx/d(s, y)|`` ``[batch]`` up to one constant (rigid motion
            integrated out). Differentiable.
        """

    @abstractmethod
    def to_internal(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Measure configurations: the inverse of `to_cartesian`.

        Returns
        -------
        s, y, log_abs_det_jacobian
            With ``ln|det d(s, y)/dx|``: minus that of `to_cartesian`.
        """

    def in_domain(self, y: torch.Tensor) -> torch.Tensor:
        """Whether each ``y`` ``[batch, fine]`` lies within `lower` and `upper`, boolean ``[batch]``."""
        lower, upper = self.lower.to(y), self.upper.to(y)
        inside: torch.Tensor = ((y >= lower) & (y <= upper) | self.periodic.to(y.device)).all(dim=-1)
        return inside

    @abstractmethod
    def in_state_space(self, x: torch.Tensor) -> torch.Tensor:
        """Whether each configuration belongs to the system's state space (chirality, say), ``[batch]``."""
