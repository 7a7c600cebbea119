"""The conditional target: the reduced energy in the coordinates (s, y).

With x(s, y) the configuration at collective variables s and fine-grained coordinates y,

    E(s, y) = u(x(s, y)) - ln|det dx/d(s, y)|,        exp(-A(s)) = int exp(-E(s, y)) dy,

where u is the reduced energy and A the PMF in kT.
"""

from __future__ import annotations

import torch

from cgbench.contracts.coordinates import Coordinates
from cgbench.contracts.problem import Problem

__all__ = ["ConditionalTarget"]


class ConditionalTarget:
    """Reduced energy ``E(s, y)`` of the fine-grained coordinates at given collective variables.

    Configurations outside the coordinates' domain or the state space have infinite energy. They are never evaluated,
    hence cost nothing. They are counted as rejected proposals.

    Parameters
    ----------
    problem
        The counted gate to the energy.
    coordinates
        The bijection between configurations and ``(s, y)``.
    """

    def __init__(self, problem: Problem, coordinates: Coordinates) -> None:
        self.problem = problem
        self.coordinates = coordinates

    @property
    def size(self) -> int:
        """Number of fine-grained coordinates."""
        return len(self.coordinates.names)

    def energy(self, s: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Energies ``[batch]``, differentiable in `s` and `y`; infinite (with zero gradient) outside.

        They are computed on the problem's device and returned on the device of `y`.

        Raises
        ------
        BudgetExhausted
            Before anything is evaluated.
        """
        return self._energy(s.to(self.problem.device), y.to(self.problem.device)).to(y.device)

    def _energy(self, s: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        inside = self._inside(s, y)
        if bool(inside.all()):
            return self._evaluate(s, y)
        energy = y.new_full((len(y),), torch.inf)
        rows = inside.nonzero().squeeze(1)
        if len(rows) == 0:
            return energy
        return energy.index_put((rows,), self._evaluate(s[rows], y[rows]))

    def _evaluate(self, s: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x, log_abs_det_jacobian = self.coordinates.to_cartesian(s, y)
        return self.problem.reduced_energy(x) - log_abs_det_jacobian

    def parts(self, s: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reduced energies u and ``ln|det dx/d(s, y)|`` apart, each ``[batch]``; charged and returned as by `energy`.

        Other temperatures need them apart: the reduced energy changes with temperature, the volume element does not.
        Outside the domain or the state space they are infinite and zero.

        Raises
        ------
        BudgetExhausted
            Before anything is evaluated.
        """
        device = y.device
        s, y = s.to(self.problem.device), y.to(self.problem.device)
        rows = self._inside(s, y).nonzero().squeeze(1)
        energy, volume = y.new_full((len(y),), torch.inf), y.new_zeros(len(y))
        if len(rows):
            x, log_abs_det_jacobian = self.coordinates.to_cartesian(s[rows], y[rows])
            found = self.problem.reduced_energy(x)
            energy = energy.to(found.dtype).index_put((rows,), found)
            volume = volume.to(log_abs_det_jacobian.dtype).index_put((rows,), log_abs_det_jacobian)
        return energy.to(device), volume.to(device)

    def _inside(self, s: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Tell which configurations are in the domain and the state space, and count the proposals."""
        inside = self.coordinates.in_domain(y.detach())
        with torch.no_grad():
            x, _ = self.coordinates.to_cartesian(s.detach(), y.detach())
            inside = inside & self.coordinates.in_state_space(x) & x.flatten(1).isfinite().all(dim=1)
        self.problem.report_proposals((~inside).sum(), len(y))
        return inside

    def energy_and_gradient(self, s: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies ``[batch]`` and their gradients with respect to `y` ``[batch, fine]``, without graph."""
        energy, gradient, _ = self.energy_and_gradients(s, y)
        return energy, gradient

    def energy_and_gradients(self, s: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Energies ``[batch]`` and their gradients in `y` ``[batch, fine]`` and `s` ``[batch, cvs]``, without graph."""
        s, y = s.detach().requires_grad_(), y.detach().requires_grad_()
        with torch.enable_grad():
            energy = self.energy(s, y)
            if not energy.requires_grad:
                return energy, torch.zeros_like(y), torch.zeros_like(s)
            gradients = torch.autograd.grad(energy[energy.isfinite()].sum(), (y, s))
        in_y, in_s = (torch.nan_to_num(g, nan=0.0, posinf=0.0, neginf=0.0) for g in gradients)
        return energy.detach(), in_y, in_s
