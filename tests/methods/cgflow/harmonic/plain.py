"""Coordinates that are the configuration itself, for the made-up systems of these tests."""

from __future__ import annotations

import math

import torch

from cgbench.contracts.coordinates import Coordinates


class PlainCoordinates(Coordinates):
    """Configurations ``(s, y)``; some of y are angles, and the others have no bounds."""

    def __init__(self, cvs: int, names: tuple[str, ...], angles: tuple[bool, ...]) -> None:
        self.cvs, self.names = cvs, names
        self.periodic = torch.tensor(angles)
        self.lower = torch.where(self.periodic, -math.pi, torch.full((len(names),), -math.inf, dtype=torch.float64))
        self.upper = -self.lower

    def to_cartesian(self, s: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat([s, y], dim=1), y.new_zeros(len(y))

    def to_internal(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return x[:, : self.cvs], x[:, self.cvs :], x.new_zeros(len(x))

    def in_state_space(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(x), dtype=torch.bool)
