"""Annealed importance sampling with Hamiltonian Monte Carlo between a flow and its target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["AnnealedImportanceSampling", "Points", "annealed", "hmc_transition"]

LogDensity = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass
class Points:
    """Points with both log-densities and their gradients, so that no transition evaluates its start again.

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
        """Evaluate both densities."""
        value_p, grad_p = log_p(z)
        value_q, grad_q = log_q(z)
        return cls(z, value_q, value_p, grad_q, grad_p)

    def where(self, chosen: torch.Tensor, other: Points) -> Points:
        """These points where `chosen` ``[batch]``, the others elsewhere."""
        return Points(
            *(
                torch.where(chosen[:, None] if mine.dim() == 2 else chosen, mine, theirs)
                for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)
            )
        )

    def rows(self, chosen: torch.Tensor) -> Points:
        """A part of the points."""
        return Points(*(value[chosen] for value in vars(self).values()))


def annealed(points: Points, power: float) -> tuple[torch.Tensor, torch.Tensor]:
    """``ln(q^(1 - power) p^power)`` ``[batch]`` and its gradient; `power` may pass 1."""
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
    """One transition that leaves ``q^(1 - power) p^power`` invariant (Duane et al., Phys. Lett. B 195, 216, 1987).

    Returns
    -------
    points, acceptance
        New points, and the probability ``[batch]`` with which each proposal was accepted.
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
    acceptance = torch.where(end.isfinite(), (end - start).clamp(max=0.0).exp(), 0.0)
    accepted = torch.rand(len(value), **options) < acceptance
    return proposal.where(accepted, points), acceptance


class AnnealedImportanceSampling:
    """Annealed importance sampling (Neal, Stat. Comput. 11, 125, 2001) from q to ``p^alpha q^(1 - alpha)``.

    Intermediate distribution n of N is ``q^(1 - b) (p^alpha q^(1 - alpha))^b`` with ``b = n / (N + 1)``, and one
    HMC transition leaves it invariant. With N distributions of L leapfrog steps a chain costs ``1 + N L``
    evaluations.

    Parameters
    ----------
    log_q, log_p
        Log-densities with gradients.
    distributions, leapfrog_steps, step_size, alpha
        Size of the annealing; the step size is the one at the start.
    target_acceptance, adaptation
        After each pass the logarithm of every distribution's step size changes by `adaptation` times the excess
        of its acceptance.
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
        """Take samples of q to the target.

        Parameters
        ----------
        points
            Samples of q where p is not zero.

        Returns
        -------
        points, log_weights
            Ends of the chains, and ``ln w [batch]``: the mean of ``w f`` estimates the integral of
            ``p^alpha q^(1 - alpha) f``.
        """
        increment = self.alpha / (len(self.step_sizes) + 1)
        log_weights = increment * (points.log_p - points.log_q)
        if not len(log_weights):  # no chains: nothing to learn about step sizes either
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
        """Step sizes and acceptances."""
        return {"step_sizes": list(self.step_sizes), "acceptance": list(self.acceptance)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.step_sizes, self.acceptance = list(state["step_sizes"]), list(state["acceptance"])
