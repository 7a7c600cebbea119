"""A system in one file: a double well in two dimensions with an exact reference."""

import hashlib

import numpy as np
import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import PMF
from cgbench.contracts.reference import Reference
from cgbench.contracts.system import Basin, System


class DoubleWell(System):
    """The double well ``3 (x^2 - 1)^2 + x / 2 + 2 (y - x)^2`` in kT, with the CV ``s = x``."""

    name = "double_well"
    version = "1"  # raise it with any change to the density or to the reference

    def __init__(self, *, engine: str | None = None, device: str = "cpu") -> None:
        super().__init__(engine=engine, device=device)
        self.temperature = 1.0
        self.traits = frozenset({"gradient"})  # flows also need the trait "coordinates" and `coordinates`
        self.cvs = CollectiveVariables(names=("x",), lower=(-2.0,), upper=(2.0,), periodic=(False,), unit="")
        self.basins = (
            Basin("left", lambda columns: columns[0] < 0),
            Basin("right", lambda columns: columns[0] >= 0),
        )

    def initial_configuration(self) -> torch.Tensor:
        """Return the left minimum, ``[2]``."""
        return torch.tensor([-1.0202, -1.0202], dtype=torch.float64)

    def reduced_energy_and_gradient(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return energies ``[batch]`` in kT and gradients ``[batch, 2]``."""
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            a, b = x[:, 0], x[:, 1]
            energy = 3.0 * (a**2 - 1.0) ** 2 + 0.5 * a + 2.0 * (b - a) ** 2
            (gradient,) = torch.autograd.grad(energy.sum(), x)
        return energy.detach(), gradient

    def collective_variables(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``s = x`` ``[batch, 1]``."""
        return x[:, :1]

    def reference(self) -> Reference:
        """Return the exact PMF: the integral over y of the Gaussian is a constant."""
        pmf = PMF.from_function(self.cvs, lambda s: 3.0 * (s[:, 0] ** 2 - 1.0) ** 2 + 0.5 * s[:, 0], subdivisions=50)
        sha256 = hashlib.sha256(np.round(pmf.probability, 12).tobytes()).hexdigest()
        return Reference(pmf, standard_error=None, noise_floor=0.0, source="exact, by quadrature", sha256=sha256)
