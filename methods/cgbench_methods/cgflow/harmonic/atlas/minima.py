"""Harmonic minima: fine-grained coordinates relaxed at fixed s, with Hessians and Laplace's approximation of the PMF.

At a reference point s_i: ``y_i = argmin_y E(s_i, y)``, ``H_i`` the Hessian of E in y there, d coordinates y, and

    A(s_i) ~ E(s_i, y_i) + 1/2 ln det H_i - d/2 ln(2 pi).

At a minimum the slope of the energy is ``dE/ds`` at fixed y: gradients in s come with every evaluation, at no cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from cgbench_methods.lib.flows.target import ConditionalTarget

__all__ = ["HarmonicMinima", "hessians", "regularised", "relax"]

STIFFEST = 1e14  # largest element of a Hessian, in scaled coordinates, that can be inverted in float64


def regularised(hessian: torch.Tensor, floor: float) -> torch.Tensor:
    """Return symmetric matrices ``[..., n, n]`` with eigenvalues replaced by their magnitudes, but at least `floor`."""
    values, vectors = torch.linalg.eigh(0.5 * (hessian + hessian.mT))
    result: torch.Tensor = (vectors * values.abs().clamp(min=floor)[..., None, :]) @ vectors.mT
    return result


@dataclass
class Relaxed:
    """Result of a relaxation.

    Attributes
    ----------
    y
        Fine-grained coordinates ``[n, fine]``.
    energy, gradient, slope
        ``E`` ``[n]``, and its gradients in `y` ``[n, fine]`` and in s ``[n, cvs]``.
    converged
        Boolean ``[n]``.
    """

    y: torch.Tensor
    energy: torch.Tensor
    gradient: torch.Tensor
    slope: torch.Tensor
    converged: torch.Tensor

    def select(self, keep: torch.Tensor) -> Relaxed:
        """Return the points where `keep`, boolean ``[n]``, is true."""
        return Relaxed(*(t[keep] for t in (self.y, self.energy, self.gradient, self.slope, self.converged)))


def relax(
    target: ConditionalTarget,
    s: torch.Tensor,
    y: torch.Tensor,
    hessian: torch.Tensor,
    *,
    steps: int,
    tolerance: float,
    max_norm: float = 4.0,
) -> Relaxed:
    """Minimise ``E(s, y)`` over `y` for a batch of points, by BFGS with a trust region.

    Parameters
    ----------
    s, y
        Points ``[n, cvs]`` and starting coordinates ``[n, fine]``.
    hessian
        Positive definite starting Hessians ``[n, fine, fine]``, for example those of a neighbour.
    steps
        Largest number of steps for each point; a step is one evaluation.
    tolerance
        A point has converged when the predicted decrease of E is smaller, in kT.
    max_norm
        Largest step in the metric of the Hessian (square root of kT).
    """
    y = y.clone()
    metric = hessian.clone()
    energy, gradient, slope = target.energy_and_gradients(s, y)
    radius = y.new_full((len(y),), max_norm)
    converged = torch.zeros(len(y), dtype=torch.bool)
    for _ in range(steps):
        active = (~converged).nonzero().squeeze(1)
        if len(active) == 0:
            break
        g, h = gradient[active], metric[active]
        direction = -torch.linalg.solve(h, g)
        decrease = -0.5 * (g * direction).sum(1)
        done = (decrease < tolerance) & energy[active].isfinite()
        converged[active[done]] = True
        active, g, h, direction, decrease = (t[~done] for t in (active, g, h, direction, decrease))
        if len(active) == 0:
            break
        length = (2 * decrease).clamp(min=1e-12).sqrt()
        scale = (radius[active] / length).clamp(max=1.0)
        move = scale[:, None] * direction
        trial = y[active] + move
        new_energy, new_gradient, new_slope = target.energy_and_gradients(s[active], trial)
        # damped BFGS update (Nocedal & Wright, sec. 18.3), which keeps the metric positive definite
        change = new_gradient - g
        bent = (h @ move[:, :, None]).squeeze(2)
        along, curvature = (move * change).sum(1), (move * bent).sum(1)
        theta = torch.where(along >= 0.2 * curvature, 1.0, 0.8 * curvature / (curvature - along))
        change = theta[:, None] * change + (1 - theta[:, None]) * bent
        along = (move * change).sum(1)
        updated = (
            h
            - bent[:, :, None] * bent[:, None, :] / curvature[:, None, None]
            + change[:, :, None] * change[:, None, :] / along[:, None, None]
        )
        sane = new_energy.isfinite() & (new_energy < energy[active] + 100.0) & updated.flatten(1).isfinite().all(1)
        metric[active] = torch.where(sane[:, None, None], updated, h)
        better = new_energy < energy[active]
        y[active] = torch.where(better[:, None], trial, y[active])
        energy[active] = torch.where(better, new_energy, energy[active])
        gradient[active] = torch.where(better[:, None], new_gradient, g)
        slope[active] = torch.where(better[:, None], new_slope, slope[active])
        grown = (1.5 * radius[active]).clamp(max=max_norm)
        radius[active] = torch.where(better, grown, 0.3 * scale * length)
    return Relaxed(y, energy, gradient, slope, converged)


def hessians(
    target: ConditionalTarget, s: torch.Tensor, relaxed: Relaxed, displacement: float = 1e-4
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute second derivatives of ``E`` by forward differences of gradients.

    Costs one evaluation per point and fine-grained coordinate.

    Returns
    -------
    hessian, mixed
        In `y` ``[n, fine, fine]``, and in `y` and s ``[n, fine, cvs]``.
    """
    n, size = relaxed.y.shape
    shift = displacement * torch.eye(size, dtype=relaxed.y.dtype)
    displaced = (relaxed.y[:, None] + shift[None]).reshape(n * size, size)
    _, gradient, slope = target.energy_and_gradients(s.repeat_interleave(size, 0), displaced)
    difference = (gradient.reshape(n, size, size) - relaxed.gradient[:, None]) / displacement
    mixed = (slope.reshape(n, size, s.shape[1]) - relaxed.slope[:, None]) / displacement
    return 0.5 * (difference + difference.mT), mixed


@dataclass
class HarmonicMinima:
    """Reference points on the CV domain, each with its minimum and harmonic approximation.

    Attributes
    ----------
    s, y
        Reference points ``[n, cvs]`` and minima ``[n, fine]``. With wells, the points ``(s, k)``, ``[n, cvs + 1]``.
    hessian
        Regularised Hessians at the minima ``[n, fine, fine]``.
    energy
        ``E`` at the minima ``[n]``.
    free_energy
        Laplace's approximation of the PMF ``[n]``, up to a constant.
    slope
        Gradient of the energy of the minimum in s ``[n, cvs]``: that of the PMF without its entropy. With wells the
        last column is zero.
    """

    s: torch.Tensor
    y: torch.Tensor
    hessian: torch.Tensor
    energy: torch.Tensor
    free_energy: torch.Tensor
    slope: torch.Tensor

    def __len__(self) -> int:
        return len(self.s)

    @classmethod
    def empty(cls, cvs: int, fine: int) -> HarmonicMinima:
        """Return a set without points."""
        zeros = torch.zeros
        return cls(
            zeros(0, cvs, dtype=torch.float64),
            zeros(0, fine, dtype=torch.float64),
            zeros(0, fine, fine, dtype=torch.float64),
            zeros(0, dtype=torch.float64),
            zeros(0, dtype=torch.float64),
            zeros(0, cvs, dtype=torch.float64),
        )

    def append(self, other: HarmonicMinima) -> HarmonicMinima:
        """Return both sets in one."""
        return HarmonicMinima(*(torch.cat([a, b]) for a, b in zip(self.tensors(), other.tensors(), strict=True)))

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return all tensors in the order of the constructor."""
        return self.s, self.y, self.hessian, self.energy, self.free_energy, self.slope

    def state_dict(self) -> dict[str, Any]:
        """Return all tensors by name."""
        return dict(zip(("s", "y", "hessian", "energy", "free_energy", "slope"), self.tensors(), strict=True))

    @classmethod
    def find(
        cls,
        target: ConditionalTarget,
        s: torch.Tensor,
        y: torch.Tensor,
        hessian: torch.Tensor,
        *,
        steps: int,
        tolerance: float,
        stiffness_floor: float,
        relevant: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    ) -> HarmonicMinima:
        """Relax points from given starts, and compute their Hessians and harmonic free energies.

        The result omits points whose energy is not finite or whose Hessian cannot be inverted. If its predicted
        decrease is below 1 kT, a last Newton step leads to the minimum of the harmonic approximation, without an
        evaluation.

        Parameters
        ----------
        s, y, hessian, steps, tolerance
            As for `relax`.
        stiffness_floor
            Smallest eigenvalue of the Hessians.
        relevant
            Tells from the points and energies of the minima which of them need their own Hessian, boolean ``[n]``. The
            others keep the Hessian that their relaxation started with. By default all need it.
        """
        relaxed = relax(target, s, y, hessian, steps=steps, tolerance=tolerance)
        finite = relaxed.energy.isfinite()
        s, hessian, relaxed = s[finite], hessian[finite], relaxed.select(finite)
        if relevant is None:
            raw, mixed = hessians(target, s, relaxed)
        else:
            raw, own = hessian.clone(), relevant(s, relaxed.energy)
            mixed = s.new_zeros(*relaxed.y.shape, s.shape[1])
            raw[own], mixed[own] = hessians(target, s[own], relaxed.select(own))
        invertible = (raw.abs() < STIFFEST).flatten(1).all(dim=1)
        s, relaxed, mixed = s[invertible], relaxed.select(invertible), mixed[invertible]
        regular = regularised(raw[invertible], stiffness_floor)
        newton = -torch.linalg.solve(regular, relaxed.gradient)
        decrease = -0.5 * (relaxed.gradient * newton).sum(1)
        trusted = (decrease < 1.0)[:, None]
        minimum = torch.where(trusted, relaxed.y + newton, relaxed.y)
        energy = torch.where(trusted[:, 0], relaxed.energy - decrease, relaxed.energy)
        slope = relaxed.slope + torch.where(trusted, (newton[:, None] @ mixed).squeeze(1), 0.0)
        fine = y.shape[1]
        free_energy = energy + 0.5 * torch.logdet(regular) - 0.5 * fine * math.log(2 * math.pi)
        return cls(s, minimum, regular, energy, free_energy, slope)
