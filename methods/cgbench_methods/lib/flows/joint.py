"""The Boltzmann density over all internal coordinates, in scaled coordinates for the flow.

With ``z = (s, y)`` in the units of the flow and the energy ``E(s, y)`` of `cgbench_methods.lib.flows.target`,

    ln p(z) = -min(r(E(s, y)), E_max),    r(E) = E up to the knee, knee + ln(1 + E - knee) above it.

`energy_linear_below` is the knee, and `energy_largest` is E_max. At the temperature ``T_0 / b``, with T_0 that of the
reduced energy u, the density is

    ln p_b(z) = -b min(r(u), E_max) + ln|det dx/d(s, y)|.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch

from cgbench.contracts.coordinates import Coordinates
from cgbench.contracts.problem import Problem
from cgbench_methods.lib.flows.build import UnconditionalFlow, spline_coupling_flow
from cgbench_methods.lib.flows.distributions import UniformGaussian
from cgbench_methods.lib.flows.settings import FlowConfig
from cgbench_methods.lib.flows.target import ConditionalTarget

__all__ = ["JointTarget", "Regularisation"]

WIDTHS = 3.0  # half the domain of a non-periodic CV, in standard deviations of the base


class Regularisation(Protocol):
    """How high energies are regularised, in kT."""

    @property
    def energy_linear_below(self) -> float:
        """Energies above this grow logarithmically."""

    @property
    def energy_largest(self) -> float:
        """Energies are clipped at this."""


class JointTarget:
    """Unnormalised log-density of ``z = (s, y)``, with energies regularised as in the publication.

    Periodic coordinates are angles. The others are shifted and scaled: collective variables to the domain [-3, 3],
    fine-grained coordinates around the initial configuration.

    Parameters
    ----------
    problem
        The counted gate to the energy.
    flow, regularisation
        Settings of the coordinates and of the regularisation.
    dtype
        Type of `z` and of the results.
    """

    def __init__(self, problem: Problem, flow: FlowConfig, regularisation: Regularisation, dtype: torch.dtype) -> None:
        self.problem, self.regularisation = problem, regularisation
        self._settings, self._dtype = flow, dtype
        self.coordinates: Coordinates = problem.coordinate_set(flow.coordinates)
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

    def new_flow(self, generator: torch.Generator) -> UnconditionalFlow:
        """Return a flow over ``z`` of the configured shape and type, on the device of the target."""
        bounds: dict[str, Any] = {"circular": self.periodic, "lower": self.lower, "upper": self.upper}
        transform = spline_coupling_flow(
            **{name: value.cpu() for name, value in bounds.items()},
            generator=generator,
            num_couplings=self._settings.num_couplings,
            hidden_features=self._settings.hidden_features,
            num_blocks=self._settings.num_blocks,
            num_bins=self._settings.num_bins,
            spline_on_identity=self._settings.spline_on_identity,
            dtype=self._dtype,
        )
        flow: UnconditionalFlow = UnconditionalFlow(transform, UniformGaussian(**bounds)).to(self.problem.device)
        return flow

    def split(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return collective variables ``[batch, cvs]`` and fine-grained coordinates ``[batch, fine]`` of `z`."""
        values = self.origin + self.unit * z
        return values[:, : self.cvs], values[:, self.cvs :]

    def join(self, s: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return `z` from collective variables and fine-grained coordinates: the inverse of `split`."""
        return (torch.cat([s, y], dim=1).to(self.unit) - self.origin) / self.unit

    def wrap(self, z: torch.Tensor) -> torch.Tensor:
        """Map periodic coordinates into their domain."""
        period = self.upper - self.lower
        return torch.where(self.periodic, self.lower + torch.remainder(z - self.lower, period), z)

    def log_density(self, x: torch.Tensor, z_log_density: torch.Tensor) -> torch.Tensor:
        """Convert a log-density over `z` to one over configurations ``[batch]``, up to rigid motion."""
        each = z_log_density.double() - math.log(self.coordinates.symmetry_number) - self._log_unit
        return each + self.coordinates.to_internal(x)[2]

    def log_prob_and_gradient(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``ln p [batch]`` up to a constant, and its gradient ``[batch, dims]``.

        Outside the coordinates' domain or the state space ``ln p`` is minus infinity with zero gradient. Such
        configurations are not evaluated and cost nothing.

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
        """Return ``ln p [batch]`` without its gradient; see `log_prob_and_gradient`."""
        with torch.no_grad():
            return self._regularised(self._target.energy(*self.split(z)))[0]

    def parts(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the regularised reduced energy, and ``ln|det dx/d(s, y)|``, each ``[batch]`` in float64.

        With them, ``ln p_b = -b u + ln|det dx/d(s, y)|`` is known at every temperature. Outside the coordinates' domain
        or the state space the energy is infinite; such configurations are not evaluated and cost nothing.

        Raises
        ------
        BudgetExhausted
            Before anything is evaluated.
        """
        with torch.no_grad():
            energy, volume = self._target.parts(*self.split(z))
            return -self._regularised(energy.double())[0], volume.double()

    def parts_and_gradient(self, z: torch.Tensor, inverse_temperature: float) -> tuple[torch.Tensor, ...]:
        """Return what `parts` returns, and the gradient of ``ln p_b`` in `z`, ``[batch, dims]``.

        Parameters
        ----------
        z
            ``[batch, dims]``.
        inverse_temperature
            The inverse temperature b, relative to that of the reduced energy.
        """
        leaf = z.detach().requires_grad_()
        with torch.enable_grad():
            energy, volume = self._target.parts(*self.split(leaf))
            log_p, excess = self._regularised(energy.detach())
            usable = energy.isfinite()
            if not bool(usable.any()):
                return -log_p.double(), volume.detach().double(), torch.zeros_like(z)
            slope = inverse_temperature / (1.0 + excess)
            total = (volume - slope * torch.where(usable, energy, 0.0))[usable].sum()
            (gradient,) = torch.autograd.grad(total, leaf)
        gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
        return -log_p.double(), volume.detach().double(), torch.where(usable[:, None], gradient, 0.0)

    def _regularised(self, energy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``ln p``, and the excess of each energy above the knee."""
        energy = torch.where(energy.isnan(), torch.inf, energy)
        knee = self.regularisation.energy_linear_below
        excess = (energy - knee).clamp(min=0.0)
        tame = torch.where(excess > 0, knee + torch.log1p(excess), energy).clamp(max=self.regularisation.energy_largest)
        return torch.where(energy.isposinf(), -torch.inf, -tame), excess
