"""Coordinates that are the configuration itself, for the made-up systems of these tests."""

from __future__ import annotations

import math

import torch
from nflows.transforms.base import Transform

from cgbench.contracts.coordinates import Coordinates
from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.reference import Reference
from cgbench.contracts.system import System


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


class Unconditional(Transform):
    """The identity, with a derivative in the context: zero. Flows are asked for it."""

    def _map(self, inputs: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return inputs + 0 * context.sum(1, keepdim=True), inputs.new_zeros(len(inputs))

    def forward(self, inputs: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._map(inputs, context)

    def inverse(self, inputs: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._map(inputs, context)


class MadeUp(System):
    """A system in `PlainCoordinates`; subclasses give the CVs, the coordinates y, a start, and the energy."""

    version = "1"
    cvs: CollectiveVariables
    names: tuple[str, ...]
    angles: tuple[bool, ...]
    start: tuple[float, ...]

    def __init__(self, *, engine: str | None = None, device: str = "cpu") -> None:
        super().__init__(engine=engine, device=device)
        self.temperature = 300.0
        self.traits = frozenset({"gradient", "coordinates"})
        self.coordinates = PlainCoordinates(len(self.cvs), self.names, self.angles)

    def initial_configuration(self) -> torch.Tensor:
        return torch.tensor(self.start, dtype=torch.float64)

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        """Reduced energies ``[batch]`` of configurations ``(s, y)``."""
        raise NotImplementedError

    def reduced_energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            energy = self.energy(leaf)
            (gradient,) = torch.autograd.grad(energy.sum(), leaf)
        return energy.detach(), gradient

    def collective_variables(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, : len(self.cvs)]

    def reference(self) -> Reference:
        raise NotImplementedError
