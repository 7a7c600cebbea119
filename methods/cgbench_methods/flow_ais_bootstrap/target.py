"""The Boltzmann density over all internal coordinates, as a flow wants it."""

from __future__ import annotations

import math
from typing import Any

import torch

from cgbench.contracts.coordinates import Coordinates
from cgbench.contracts.problem import Problem
from cgbench_methods.flow_ais_bootstrap.config import AISConfig, FlowConfig
from cgbench_methods.lib.flows.target import ConditionalTarget

__all__ = ["JointTarget"]

WIDTHS = 3.0  # half the domain of a CV that is not periodic, in widths of the base


class JointTarget:
    """Log-density of ``z = (s, y)``, unnormalised, with energies regularised as FAB has them.

    Periodic coordinates are angles; the others are shifted and scaled: collective variables so that their
    domain is +-3, fine-grained ones about the initial configuration.

    Parameters
    ----------
    problem
        The counted gate to the energy.
    flow, ais
        Settings of coordinates, and of regularisation.
    dtype
        Of all computation.
    """

    def __init__(self, problem: Problem, flow: FlowConfig, ais: AISConfig, dtype: torch.dtype) -> None:
        self.problem, self.ais = problem, ais
        self.coordinates: Coordinates = problem.coordinate_sets[flow.coordinates]
        self._target = ConditionalTarget(problem, self.coordinates)
        cvs = problem.cvs
        self.cvs = len(cvs)
        options: dict[str, Any] = {"dtype": torch.float64, "device": problem.device}
        low, high = torch.tensor(cvs.lower, **options), torch.tensor(cvs.upper, **options)
        turning = torch.tensor(cvs.periodic, device=problem.device)
        fine_turning = self.coordinates.periodic.to(problem.device)
        start = problem.initial_configuration()[None].to(torch.float64)
        centre = self.coordinates.to_internal(start)[1][0].to(problem.device)
        self.periodic = torch.cat([turning, fine_turning])
        unit = torch.cat([(high - low) / (2 * WIDTHS), torch.full_like(centre, flow.fine_scale)])
        origin = torch.cat([0.5 * (low + high), centre])
        self.unit = torch.where(self.periodic, 1.0, unit).to(dtype)
        self.origin = torch.where(self.periodic, 0.0, origin).to(dtype)
        bound = torch.full_like(origin, flow.tail_bound)
        lower = torch.cat([low, self.coordinates.lower.to(problem.device)])
        upper = torch.cat([high, self.coordinates.upper.to(problem.device)])
        self.lower = torch.where(self.periodic, lower, -bound).to(dtype)
        self.upper = torch.where(self.periodic, upper, bound).to(dtype)
        self._log_unit = float(self.unit.double().log().sum())

    def split(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Collective variables ``[batch, cvs]`` and fine-grained coordinates ``[batch, fine]`` of `z`."""
        values = self.origin + self.unit * z
        return values[:, : self.cvs], values[:, self.cvs :]

    def join(self, s: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The inverse of `split`."""
        return (torch.cat([s, y], dim=1).to(self.unit) - self.origin) / self.unit

    def wrap(self, z: torch.Tensor) -> torch.Tensor:
        """Map periodic coordinates into their domain."""
        period = self.upper - self.lower
        return torch.where(self.periodic, self.lower + torch.remainder(z - self.lower, period), z)

    def log_density(self, x: torch.Tensor, z_log_density: torch.Tensor) -> torch.Tensor:
        """Turn a density over `z` into one over configurations ``[batch]``, rigid motion integrated out."""
        each = z_log_density.double() - math.log(self.coordinates.symmetry_number) - self._log_unit
        return each + self.coordinates.to_internal(x)[2]

    def log_prob_and_gradient(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``ln p [batch]`` up to one constant and its gradient ``[batch, dims]``.

        Outside the coordinates' domain or the state space ``ln p`` is minus infinity with zero gradient;
        such configurations never reach the potential, hence cost nothing. Above `energy_linear_below` the
        energy u is replaced by its value there plus ``ln(1 + excess)``, and cut at `energy_largest`.

        Raises
        ------
        BudgetExhausted
            Before anything is evaluated.
        """
        energy, in_y, in_s = self._target.energy_and_gradients(*self.split(z))
        gradient = torch.cat([in_s, in_y], dim=1) * self.unit
        log_p, excess = self._regularised(energy)
        return log_p, torch.where(log_p.isinf()[:, None], 0.0, -gradient / (1.0 + excess)[:, None])

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """``ln p [batch]`` as `log_prob_and_gradient` has it, without the gradient."""
        with torch.no_grad():
            return self._regularised(self._target.energy(*self.split(z)))[0]

    def _regularised(self, energy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``ln p``, and by how much each energy is above the knee."""
        energy = torch.where(energy.isnan(), torch.inf, energy)
        knee = self.ais.energy_linear_below
        excess = (energy - knee).clamp(min=0.0)
        tame = torch.where(excess > 0, knee + torch.log1p(excess), energy).clamp(max=self.ais.energy_largest)
        return torch.where(energy.isposinf(), -torch.inf, -tame), excess
