"""A system in one file with more collective variables than one grid should hold: three coupled angles."""

import hashlib

import numpy as np
import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import States
from cgbench.contracts.pmf import PMF
from cgbench.contracts.reference import MapReference, Reference
from cgbench.contracts.system import Basin, System, maps_of

FINE = 4  # quadrature points per bin of each angle


def potential(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Return the potential in kT."""
    return -2 * torch.cos(2 * a) - torch.cos(a - b) - 1.5 * torch.cos(b) - torch.cos(c - b)


class ThreeAngles(System):
    """The potential ``-2 cos(2 a) - cos(a - b) - 1.5 cos(b) - cos(c - b)`` in kT of the angles a, b and c.

    Its PMFs are scored on two maps, (a, b) and (b, c), and the populations of two states, a within 90 degrees of 0 and
    a beyond.
    """

    name = "three_angles"
    version = "1"

    def __init__(self, *, engine: str | None = None, device: str = "cpu") -> None:
        super().__init__(engine=engine, device=device)
        self.temperature = 1.0
        self.traits = frozenset({"gradient"})
        self.cvs = CollectiveVariables(
            names=("a", "b", "c"), lower=(-np.pi,) * 3, upper=(np.pi,) * 3, periodic=(True,) * 3, bins=(24,) * 3
        )
        self.maps = ((0, 1), (1, 2))
        self.states = States(("front", "back"), lambda s: (np.abs(s[:, 0]) > np.pi / 2).astype(np.int64))
        self.basins = (
            Basin("c near 0", lambda columns: np.abs(columns[1]) < 1.0, map=1),
            Basin("c far from 0", lambda columns: np.abs(columns[1]) >= 1.0, map=1),
        )

    def initial_configuration(self) -> torch.Tensor:
        """Return the minimum, ``[3]``."""
        return torch.zeros(3, dtype=torch.float64)

    def reduced_energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return energies ``[batch]`` in kT and gradients ``[batch, 3]``."""
        a, b, c = x.unbind(dim=1)
        slopes = (
            4 * torch.sin(2 * a) + torch.sin(a - b),
            -torch.sin(a - b) + 1.5 * torch.sin(b) - torch.sin(c - b),
            torch.sin(c - b),
        )
        return potential(a, b, c), torch.stack(slopes, dim=1)

    def collective_variables(self, x: torch.Tensor) -> torch.Tensor:
        """Return the angles ``[batch, 3]`` in [-pi, pi)."""
        return self.cvs.wrap(x)

    def reference(self) -> Reference:
        """Return the exact PMFs and populations, by quadrature over all three angles."""
        points = self.cvs.grid(FINE)
        weights = torch.exp(-potential(*torch.from_numpy(points).T)).numpy()
        first, second = (
            MapReference(PMF(one.cvs, one.cvs.histogram(one.select(points), weights)), None) for one in maps_of(self)
        )
        counts = self.states.counts(points, weights) / weights.sum()
        return Reference(
            first.pmf,
            standard_error=None,
            noise_floor=0.0,
            source="exact, by quadrature",
            sha256=hashlib.sha256(np.round(first.pmf.probability, 12).tobytes()).hexdigest(),
            further=(second,),
            populations={name: (float(p), 0.0) for name, p in zip(self.states.names, counts, strict=True)},
        )
