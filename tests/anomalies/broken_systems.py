"""Systems whose numbers go wrong in every way that a potential can."""

from __future__ import annotations

import torch

from cgbench_systems.aldp import AlanineDipeptide
from cgbench_systems.muller_brown import MullerBrown

__all__ = ["BROKEN", "MOLECULES"]


class _Broken:
    """Spoils the energies and gradients of the system that it is mixed into."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.evaluated = 0
        self.random = torch.Generator().manual_seed(0)

    def reduced_energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        energy, gradient = super().reduced_energy_and_gradient(x)
        self.evaluated += len(x)
        self.spoil(x, energy, gradient)
        return energy, gradient

    def chosen(self, x: torch.Tensor, share: float) -> torch.Tensor:
        return torch.rand(len(x), generator=self.random) < share

    def beyond(self, x: torch.Tensor) -> torch.Tensor:
        """A region at the edge of the basin that every simulation starts in."""
        s = self.collective_variables(x)[:, 0]
        start = self.collective_variables(self.initial_configuration()[None].to(x))[0, 0]
        return s > start + 0.25 * (1 if x.dim() == 2 else 1.5)


class _Region(_Broken):
    def spoil(self, x: torch.Tensor, energy: torch.Tensor, gradient: torch.Tensor) -> None:
        energy[self.beyond(x)] = torch.nan


class _Random(_Broken):
    def spoil(self, x: torch.Tensor, energy: torch.Tensor, gradient: torch.Tensor) -> None:
        energy[self.chosen(x, 0.1)] = torch.nan
        energy[self.chosen(x, 0.1)] = torch.inf
        energy[self.chosen(x, 0.1)] = -torch.inf


class _Later(_Broken):
    def spoil(self, x: torch.Tensor, energy: torch.Tensor, gradient: torch.Tensor) -> None:
        if self.evaluated > 100:
            energy[:], gradient[:] = torch.nan, torch.nan


class _Always(_Broken):
    def spoil(self, x: torch.Tensor, energy: torch.Tensor, gradient: torch.Tensor) -> None:
        energy[:], gradient[:] = torch.nan, torch.nan


class _Steep(_Broken):
    def spoil(self, x: torch.Tensor, energy: torch.Tensor, gradient: torch.Tensor) -> None:
        gradient[self.chosen(x, 0.3)] = torch.inf


class _Huge(_Broken):
    """Finite, but squares of it are not."""

    def spoil(self, x: torch.Tensor, energy: torch.Tensor, gradient: torch.Tensor) -> None:
        chosen = self.chosen(x, 0.1)
        value = 0.6 * torch.finfo(x.dtype).max ** 0.6
        energy[chosen], gradient[chosen] = value, value


class _Winner(_Broken):
    """Now and then, one weight above all others."""

    def spoil(self, x: torch.Tensor, energy: torch.Tensor, gradient: torch.Tensor) -> None:
        energy[self.chosen(x, 0.01)] = -690.0


KINDS = {
    "Region": _Region,
    "Random": _Random,
    "Later": _Later,
    "Always": _Always,
    "Steep": _Steep,
    "Huge": _Huge,
    "Winner": _Winner,
}
# named in this module, as the registry finds classes by file and name
for _name, _kind in KINDS.items():
    globals()[_name] = type(_name, (_kind, MullerBrown), {"__module__": __name__})
    globals()["Molecule" + _name] = type("Molecule" + _name, (_kind, AlanineDipeptide), {"__module__": __name__})
BROKEN = list(KINDS)
MOLECULES = [f"Molecule{name}" for name in KINDS]
