"""The harmonic atlas: relaxed configurations with their Hessians, grown outwards from one minimum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from cgbench_methods.lib.flows.target import ConditionalTarget

__all__ = ["HarmonicMinima", "hessians", "regularised", "relax"]

STIFFEST = 1e14  # element of a Hessian in scaled units; stiffer ones cannot be inverted in float64


def regularised(hessian: torch.Tensor, floor: float) -> torch.Tensor:
    """Replace eigenvalues by their magnitudes, at least `floor`; symmetric ``[..., n, n]``."""
    values, vectors = torch.linalg.eigh(0.5 * (hessian + hessian.mT))
    result: torch.Tensor = (vectors * values.abs().clamp(min=floor)[..., None, :]) @ vectors.mT
    return result


@dataclass
class Relaxed:
    """Relaxed fine-grained coordinates ``y [n, fine]`` with energies ``[n]`` and gradients."""

    y: torch.Tensor
    energy: torch.Tensor
    gradient: torch.Tensor
    converged: torch.Tensor


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
    """Minimise ``E(s, y)`` over `y` for a batch of points with BFGS in a trust region.

    Parameters
    ----------
    s, y
        Points ``[n, cvs]`` and starting coordinates ``[n, fine]``.
    hessian
        Positive definite starting Hessians ``[n, fine, fine]``, those of a neighbour, say.
    steps
        Most steps for each point; a step is one evaluation.
    tolerance
        A point is relaxed when the predicted decrease falls below it, in kT.
    max_norm
        Longest step in the metric of the Hessian (square root of kT).
    """
    y = y.clone()
    metric = hessian.clone()
    energy, gradient = target.energy_and_gradient(s, y)
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
        new_energy, new_gradient = target.energy_and_gradient(s[active], trial)
        # damped BFGS update (Nocedal & Wright, sec. 18.3) keeps the metric positive definite
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
        grown = (1.5 * radius[active]).clamp(max=max_norm)
        radius[active] = torch.where(better, grown, 0.3 * scale * length)
    return Relaxed(y, energy, gradient, converged)


def hessians(target: ConditionalTarget, s: torch.Tensor, relaxed: Relaxed, displacement: float = 1e-4) -> torch.Tensor:
    """Hessians of ``E`` in `y` by forward differences of gradients, ``[n, fine, fine]``.

    Costs one evaluation per fine-grained coordinate and point; float64 throughout.
    """
    n, size = relaxed.y.shape
    shift = displacement * torch.eye(size, dtype=relaxed.y.dtype)
    displaced = (relaxed.y[:, None] + shift[None]).reshape(n * size, size)
    _, gradient = target.energy_and_gradient(s.repeat_interleave(size, 0), displaced)
    difference = (gradient.reshape(n, size, size) - relaxed.gradient[:, None]) / displacement
    return 0.5 * (difference + difference.mT)


@dataclass
class HarmonicMinima:
    """Relaxed points over the CV domain, each with its harmonic approximation.

    Attributes
    ----------
    s, y
        Points ``[n, cvs]`` and their minima ``[n, fine]``.
    hessian
        Regularised Hessians at the minima ``[n, fine, fine]``.
    energy
        ``E`` at the minima ``[n]``.
    free_energy
        Laplace's approximation of the PMF ``[n]``, up to a constant.
    """

    s: torch.Tensor
    y: torch.Tensor
    hessian: torch.Tensor
    energy: torch.Tensor
    free_energy: torch.Tensor

    def __len__(self) -> int:
        return len(self.s)

    @classmethod
    def empty(cls, cvs: int, fine: int) -> HarmonicMinima:
        """An atlas without points."""
        zeros = torch.zeros
        return cls(
            zeros(0, cvs, dtype=torch.float64),
            zeros(0, fine, dtype=torch.float64),
            zeros(0, fine, fine, dtype=torch.float64),
            zeros(0, dtype=torch.float64),
            zeros(0, dtype=torch.float64),
        )

    def append(self, other: HarmonicMinima) -> HarmonicMinima:
        """Both together."""
        return HarmonicMinima(*(torch.cat([a, b]) for a, b in zip(self.tensors(), other.tensors(), strict=True)))

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All tensors in the order of the constructor."""
        return self.s, self.y, self.hessian, self.energy, self.free_energy

    def state_dict(self) -> dict[str, Any]:
        """All tensors by name."""
        return dict(zip(("s", "y", "hessian", "energy", "free_energy"), self.tensors(), strict=True))

    @classmethod
    def chart(
        cls,
        target: ConditionalTarget,
        s: torch.Tensor,
        y: torch.Tensor,
        hessian: torch.Tensor,
        *,
        steps: int,
        tolerance: float,
        stiffness_floor: float,
    ) -> HarmonicMinima:
        """Relax points from given starts and take their Hessians.

        The last Newton step to the minimum of the harmonic approximation is made without an evaluation. Points without
        a finite energy, or with a Hessian that cannot be inverted, are left out.
        """
        found = relax(target, s, y, hessian, steps=steps, tolerance=tolerance)
        keep = found.energy.isfinite()
        s, found = s[keep], Relaxed(*(t[keep] for t in (found.y, found.energy, found.gradient, found.converged)))
        raw = hessians(target, s, found)
        keep = (raw.abs() < STIFFEST).flatten(1).all(dim=1)
        if not bool(keep.all()):
            s, raw = s[keep], raw[keep]
            found = Relaxed(*(t[keep] for t in (found.y, found.energy, found.gradient, found.converged)))
        exact = regularised(raw, stiffness_floor)
        newton = -torch.linalg.solve(exact, found.gradient)
        decrease = -0.5 * (found.gradient * newton).sum(1)
        trusted = (decrease < 1.0)[:, None]
        minimum = torch.where(trusted, found.y + newton, found.y)
        energy = torch.where(trusted[:, 0], found.energy - decrease, found.energy)
        fine = y.shape[1]
        free_energy = energy + 0.5 * torch.logdet(exact) - 0.5 * fine * math.log(2 * math.pi)
        return cls(s, minimum, exact, energy, free_energy)
