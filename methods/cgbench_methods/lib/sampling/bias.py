"""Bias potentials on collective variables (CVs), and the energy and gradient of a biased system.

With reduced energy u(x), CVs s(x) and bias V(s) in kT, the biased system has

    u(x) + V(s(x)),    grad u(x) + (ds/dx)^T dV/ds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.lib.estimators.fourier import ProductSeries
from cgbench_methods.lib.sampling.langevin import EnergyAndGradient

__all__ = ["Bias", "Biased", "FourierBias", "biased"]


class Bias(Protocol):
    """A potential on the CVs, in kT."""

    def energy(self, s: torch.Tensor) -> torch.Tensor:
        """Bias ``[batch]`` at ``s [batch, cvs]``."""

    def energy_and_gradient(self, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bias ``[batch]`` and its gradient ``[batch, cvs]`` at ``s [batch, cvs]``."""


class Biased:
    """Reduced energy and gradient of a biased system, as a function of configurations.

    Attributes
    ----------
    last
        CVs ``[batch, cvs]`` and bias ``[batch]`` of the last call.
    """

    def __init__(
        self,
        bias: Bias,
        energy_and_gradient: EnergyAndGradient,
        collective_variables: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        self.bias = bias
        self._energy_and_gradient = energy_and_gradient
        self._collective_variables = collective_variables
        self.last: tuple[torch.Tensor, torch.Tensor]

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Biased energy ``[batch]`` and its gradient, in the shape of `x`."""
        energy, gradient = self._energy_and_gradient(x)
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            s = self._collective_variables(leaf)
            bias, slope = self.bias.energy_and_gradient(s.detach())
            (pull,) = torch.autograd.grad(s, leaf, slope)
        self.last = (s.detach(), bias)
        return energy + bias, gradient + pull


def biased(
    bias: Bias,
    energy_and_gradient: EnergyAndGradient,
    collective_variables: Callable[[torch.Tensor], torch.Tensor],
) -> Biased:
    """Return energy and gradient of the system under `bias`, as a function of configurations."""
    return Biased(bias, energy_and_gradient, collective_variables)


class FourierBias:
    """A smooth bias in kT as a truncated Fourier series (`ProductSeries`).

    The bias is periodic along periodic CVs and constant outside the domain of others. Forces are the exact gradient of
    the energy that samples are reweighted by, and a step costs the same however many hills there are.

    Parameters
    ----------
    cvs
        The CVs and their domain.
    order
        Largest number of waves across the domain, along every CV.
    """

    def __init__(self, cvs: CollectiveVariables, order: int = 12) -> None:
        self.series = ProductSeries(cvs, order)
        self.coefficients = torch.zeros(self.series.shape, dtype=torch.float64)

    @classmethod
    def from_grid(cls, cvs: CollectiveVariables, energy: NDArray[Any], order: int = 12) -> FourierBias:
        """Return the least-squares bias through energies at the bin centres, of shape ``cvs.bins``."""
        bias = cls(cvs, order)
        bias.coefficients = bias.series.project(torch.from_numpy(energy))
        return bias

    def energy(self, s: torch.Tensor) -> torch.Tensor:
        """Bias ``[batch]`` at ``s [batch, cvs]``."""
        return self.series.evaluate(self.coefficients, s)

    def energy_and_gradient(self, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bias ``[batch]`` and its gradient ``[batch, cvs]`` at ``s [batch, cvs]``."""
        return self.series.evaluate_with_gradient(self.coefficients, s)

    def on_grid(self) -> NDArray[Any]:
        """Bias at the bin centres, of shape ``cvs.bins``."""
        cvs = self.series.cvs
        return self.energy(torch.from_numpy(cvs.grid())).numpy().reshape(cvs.bins)

    def deposit(self, s: torch.Tensor, heights: torch.Tensor, widths: Sequence[float]) -> None:
        """Add Gaussian hills at ``s [hills, cvs]``, of the given heights (kT) and one width per CV."""
        self.coefficients = self.coefficients + self.series.hills(s.cpu(), heights.cpu(), widths)

    def state_dict(self) -> dict[str, Any]:
        """Return the coefficients of the series."""
        return {"coefficients": self.coefficients}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.coefficients = state["coefficients"].clone()
