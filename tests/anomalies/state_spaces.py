"""Systems with a state space that samples leave, or that does not hold the start."""

from __future__ import annotations

import torch

from cgbench.contracts.coordinates import Coordinates
from cgbench_systems.aldp import AlanineDipeptide
from cgbench_systems.muller_brown import MullerBrown

__all__ = ["Cut", "Mirrored", "Unsure", "Walled"]


class _Walled(Coordinates):
    """The coordinates of Müller-Brown, for the part of the plane on one side of a wall."""

    def __init__(self, inner: Coordinates, normal: tuple[float, float], wall: float) -> None:
        self.inner, self.wall = inner, wall
        self.normal = torch.tensor(normal)
        self.names, self.periodic, self.lower, self.upper = inner.names, inner.periodic, inner.lower, inner.upper

    def to_cartesian(self, s: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inner.to_cartesian(s, y)

    def to_internal(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.inner.to_internal(x)

    def in_state_space(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner.in_state_space(x) & (x @ self.normal.to(x) < self.wall)


class Walled(MullerBrown):
    """Müller-Brown with a state space whose border thermal motion crosses."""

    name = "walled"
    normal, wall = (1.0, 1.0), 1.2

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.coordinates = _Walled(self.coordinates, self.normal, self.wall)


class Cut(Walled):
    """With a wall that cuts more from the basin of the start at larger s."""

    name = "cut"
    normal, wall = (1.0, 0.0), -0.45


class Mirrored(AlanineDipeptide):
    """Alanine dipeptide that starts as the D-form."""

    name = "mirrored"

    def initial_configuration(self) -> torch.Tensor:
        return super().initial_configuration() * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)


class _Raising(_Walled):
    def in_state_space(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyError("CA")


class Unsure(MullerBrown):
    """Müller-Brown whose state space cannot be asked for."""

    name = "unsure"

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.coordinates = _Raising(self.coordinates, (1.0, 1.0), 0.0)
