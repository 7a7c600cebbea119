"""Bias potentials on collective variables, and systems under them."""

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
    """A potential on the collective variables, in kT."""

    def energy(self, s: torch.Tensor) -> torch.Tensor:
        """Bias ``[batch]`` at ``s [batch, cvs]``."""

    def energy_and_gradient(self, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Bias ``[batch]`` and its gradient ``[batch, cvs]`` at ``s [batch, cvs]``."""


class Biased:
    """Reduced energy and gradient of a system with a bias added.

    Attributes
    ----------
    last
        Collective variables ``[batch, cvs]`` and bias ``[batch]`` of the last call.
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
        """Energy ``[batch]`` and gradient (shape of `x`), both with the bias."""
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
    """Return energy and gradient of the system under `bias`, as a function that remembers its last CVs and bias."""
    return Biased(bias, energy_and_gradient, collective_variables)


class FourierBias:
    """A smooth bias in kT as a truncated Fourier series (`ProductSeries`).

    Smooth to all orders, exactly periodic along periodic CVs, and constant beyond the ends of others, where it is
    flat: forces are the exact gradient of the energy by which samples are reweighted. A step costs the same
    however many hills there are.

    Parameters
    ----------
    cvs
        Collective variables and their domain.
    order
        Largest number of waves across the domain, along every CV.
    """

    def __init__(self, cvs: CollectiveVariables, order: int = 12) -> None:
        self.series = ProductSeries(cvs, order)
        self.coefficients = torch.zeros(self.series.shape, dtype=torch.float64)

    @classmethod
    def from_grid(cls, cvs: CollectiveVariables, energy: NDArray[Any], order: int = 12) -> FourierBias:
        """Return the bias nearest to the energies at the bin centres, of shape ``cvs.bins``."""
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
        """Add Gaussian hills of the given heights (kT) and one width per CV at ``s [hills, cvs]``."""
        self.coefficients = self.coefficients + self.series.hills(s.cpu(), heights.cpu(), widths)

    def state_dict(self) -> dict[str, Any]:
        """Coefficients of the series."""
        return {"coefficients": self.coefficients}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.coefficients = state["coefficients"].clone()
