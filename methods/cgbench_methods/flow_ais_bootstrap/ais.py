"""Annealed importance sampling (AIS) with Hamiltonian Monte Carlo (HMC), from a flow q towards its target p.

AIS (Neal, Stat. Comput. 11, 125, 2001) goes from q to ``g = p^alpha q^(1 - alpha)`` over the intermediate densities

    g_n = q^(1 - b_n) g^(b_n) = q^(1 - alpha b_n) p^(alpha b_n),    b_n = n / (N + 1),    n = 0, ..., N + 1.

One HMC transition leaves each of g_1, ..., g_N invariant. A chain z_0, ..., z_N has the weight

    w = prod_{n=0}^{N} g_{n+1}(z_n) / g_n(z_n),

and the mean of ``w f(z_N)`` estimates the integral of ``g f``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["AnnealedImportanceSampling", "Points", "annealed", "hmc_transition"]

LogDensity = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass
class Points:
    """Points with both log-densities and their gradients; transitions do not evaluate their start again.

    Attributes
    ----------
    z, log_q, log_p, grad_q, grad_p
        ``[batch, dims]``, ``[batch]``, ``[batch]``, ``[batch, dims]``, ``[batch, dims]``.
    """

    z: torch.Tensor
    log_q: torch.Tensor
    log_p: torch.Tensor
    grad_q: torch.Tensor
    grad_p: torch.Tensor

    @classmethod
    def at(cls, z: torch.Tensor, log_q: LogDensity, log_p: LogDensity) -> Points:
        """Evaluate both log-densities at `z`."""
        value_p, grad_p = log_p(z)
        value_q, grad_q = log_q(z)
        return cls(z, value_q, value_p, grad_q, grad_p)

    def where(self, chosen: torch.Tensor, other: Points) -> Points:
        """Return these points where `chosen` ``[batch]``, the others elsewhere."""
        return Points(
            *(
                torch.where(chosen[:, None] if mine.dim() == 2 else chosen, mine, theirs)
                for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)
            )
        )

    def rows(self, chosen: torch.Tensor) -> Points:
        """Return some of the points."""
        return Points(*(value[chosen] for value in vars(self).values()))


def annealed(points: Points, power: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``ln(q^(1 - power) p^power)`` ``[batch]`` and its gradient; `power` may exceed 1."""
    value = (1.0 - power) * points.log_q + power * points.log_p
    return value, (1.0 - power) * points.grad_q + power * points.grad_p


def hmc_transition(
    points: Points,
    power: float,
    step_size: float,
    leapfrog_steps: int,
    log_q: LogDensity,
    log_p: LogDensity,
    generator: torch.Generator,
) -> tuple[Points, torch.Tensor]:
    """Make one HMC transition that leaves ``q^(1 - power) p^power`` invariant.

    Hybrid Monte Carlo of Duane et al., Phys. Lett. B 195, 216, 1987.

    Returns
    -------
    points, acceptance
        New points, and the acceptance probability of each proposal ``[batch]``.
    """
    value, gradient = annealed(points, power)
    options: dict[str, Any] = {"generator": generator, "dtype": value.dtype, "device": value.device}
    momentum = torch.randn(points.z.shape, **options)
    start = value - 0.5 * momentum.square().sum(1)
    proposal = points
    momentum = momentum + 0.5 * step_size * gradient
    for step in range(leapfrog_steps):
        proposal = Points.at(proposal.z + step_size * momentum, log_q, log_p)
        value, gradient = annealed(proposal, power)
        last = step == leapfrog_steps - 1
        momentum = momentum + (0.5 if last else 1.0) * step_size * gradient
    end = value - 0.5 * momentum.square().sum(1)
    # NaN, from a start without a density, would stay in the step size
    known = end.isfinite() & ~start.isnan()
    acceptance = torch.where(known, (end - start).clamp(max=0.0).exp(), 0.0)
    accepted = torch.rand(len(value), **options) < acceptance
    return proposal.where(accepted, points), acceptance


class AnnealedImportanceSampling:
    """Annealed importance sampling from q to ``p^alpha q^(1 - alpha)``, with adaptive step sizes.

    With N intermediate densities of L leapfrog steps, a chain costs ``1 + N L`` evaluations.

    Parameters
    ----------
    log_q, log_p
        Log-densities with gradients.
    distributions, leapfrog_steps, step_size, alpha
        Number of intermediate densities N, leapfrog steps L of a transition, initial step size, and alpha.
    target_acceptance, adaptation
        After each pass every step size is multiplied by ``1 + adaptation (acceptance - target_acceptance)``.
    generator
        Source of momenta and acceptances.
    """

    def __init__(
        self,
        log_q: LogDensity,
        log_p: LogDensity,
        *,
        distributions: int,
        leapfrog_steps: int,
        step_size: float,
        generator: torch.Generator,
        alpha: float = 2.0,
        target_acceptance: float = 0.65,
        adaptation: float = 0.1,
    ) -> None:
        self.log_q, self.log_p, self.generator = log_q, log_p, generator
        self.leapfrog_steps, self.alpha = leapfrog_steps, alpha
        self.target_acceptance, self.adaptation = target_acceptance, adaptation
        self.step_sizes = [step_size] * distributions
        self.acceptance = [0.0] * distributions

    def run(self, points: Points) -> tuple[Points, torch.Tensor]:
        """Run chains from samples of q to the target.

        Parameters
        ----------
        points
            Samples of q where p is positive.

        Returns
        -------
        points, log_weights
            Ends of the chains, and ``ln w [batch]``: the mean of ``w f`` estimates the integral of
            ``p^alpha q^(1 - alpha) f``.
        """
        increment = self.alpha / (len(self.step_sizes) + 1)
        log_weights = increment * (points.log_p - points.log_q)
        if not len(log_weights):  # without chains, step sizes cannot be adapted
            return points, log_weights
        for number, step_size in enumerate(self.step_sizes):
            power = (number + 1) * increment
            points, acceptance = hmc_transition(
                points, power, step_size, self.leapfrog_steps, self.log_q, self.log_p, self.generator
            )
            log_weights = log_weights + increment * (points.log_p - points.log_q)
            self.acceptance[number] = float(acceptance.mean())
        self._adapt()
        return points, log_weights

    def _adapt(self) -> None:
        for number, rate in enumerate(self.acceptance):
            factor = 1.0 + self.adaptation * (rate - self.target_acceptance)
            self.step_sizes[number] *= factor

    def state_dict(self) -> dict[str, Any]:
        """Return step sizes and acceptances."""
        return {"step_sizes": list(self.step_sizes), "acceptance": list(self.acceptance)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.step_sizes, self.acceptance = list(state["step_sizes"]), list(state["acceptance"])
