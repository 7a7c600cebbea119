"""Fourier series on collective variables: periodic along periodic ones, cosines (no slope at the ends) along others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from cgbench.contracts.cvs import CollectiveVariables

__all__ = ["ProductSeries", "SeriesAxis"]


class SeriesAxis:
    """Orthonormal functions of one collective variable, ``2 order + 1`` of them.

    With t = s - lower and L the length of the domain, these are 1, ``sqrt(2) cos(2 pi k t / L)`` and
    ``sqrt(2) sin(2 pi k t / L)`` for k up to `order` along a periodic CV; otherwise 1 and ``sqrt(2) cos(pi k t / L)``
    for k up to twice that: the series of a function mirrored at both ends. Both resolve `order` waves across the
    domain. Outside the domain of a CV that is not periodic the functions keep their values at its end.

    Parameters
    ----------
    lower, upper
        The domain.
    periodic
        Whether it closes on itself.
    order
        Largest number of waves across the domain.
    """

    def __init__(self, lower: float, upper: float, periodic: bool, order: int) -> None:
        self.lower, self.upper, self.periodic = lower, upper, periodic
        self.length = upper - lower
        count = order if periodic else 2 * order
        waves = torch.arange(1, count + 1, dtype=torch.float64)
        self._frequencies = waves * (2 * math.pi if periodic else math.pi) / self.length
        self.frequencies = torch.cat([torch.zeros(1, dtype=torch.float64), *[self._frequencies] * (1 + periodic)])

    def __len__(self) -> int:
        return len(self.frequencies)

    def _trigonometry(self, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        inside = s if self.periodic else s.clamp(self.lower, self.upper)
        frequencies = self._frequencies.to(s)
        phase = (inside - self.lower)[:, None] * frequencies
        return math.sqrt(2.0) * phase.cos(), math.sqrt(2.0) * phase.sin(), frequencies

    def values(self, s: torch.Tensor) -> torch.Tensor:
        """Functions ``[batch, 2 order + 1]`` at ``s [batch]``."""
        cosine, sine, _ = self._trigonometry(s)
        one = torch.ones_like(s)[:, None]
        return torch.cat([one, cosine, sine] if self.periodic else [one, cosine], dim=1)

    def values_and_slopes(self, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Functions and their derivatives, both ``[batch, 2 order + 1]``."""
        cosine, sine, frequencies = self._trigonometry(s)
        one = torch.ones_like(s)[:, None]
        if self.periodic:
            values = torch.cat([one, cosine, sine], dim=1)
            return values, torch.cat([0 * one, -frequencies * sine, frequencies * cosine], dim=1)
        within = ((s >= self.lower) & (s <= self.upper)).to(s)[:, None]
        return torch.cat([one, cosine], dim=1), torch.cat([0 * one, -within * frequencies * sine], dim=1)


class ProductSeries:
    """Products of the functions of each collective variable.

    Parameters
    ----------
    cvs
        The domain.
    order
        Largest number of waves across the domain, along every CV.
    """

    def __init__(self, cvs: CollectiveVariables, order: int) -> None:
        self.cvs, self.order = cvs, order
        domains = zip(cvs.lower, cvs.upper, cvs.periodic, strict=True)
        self.axes = [SeriesAxis(lower, upper, periodic, order) for lower, upper, periodic in domains]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of functions along each CV."""
        return tuple(len(axis) for axis in self.axes)

    def values(self, s: torch.Tensor) -> list[torch.Tensor]:
        """Functions of each CV ``[batch, 2 order + 1]`` at ``s [batch, cvs]``."""
        return [axis.values(s[:, i]) for i, axis in enumerate(self.axes)]

    def evaluate(self, coefficients: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """Value ``[batch]`` of the series at ``s [batch, cvs]``."""
        return _contract(coefficients.to(s), self.values(s))

    def evaluate_with_gradient(self, coefficients: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Value ``[batch]`` and gradient ``[batch, cvs]`` of the series at ``s [batch, cvs]``."""
        coefficients = coefficients.to(s)
        both = [axis.values_and_slopes(s[:, i]) for i, axis in enumerate(self.axes)]
        values = [value for value, _ in both]
        gradient = [
            _contract(coefficients, [*values[:i], slope, *values[i + 1 :]]) for i, (_, slope) in enumerate(both)
        ]
        return _contract(coefficients, values), torch.stack(gradient, dim=1)

    def hills(self, s: torch.Tensor, heights: torch.Tensor, widths: Sequence[float]) -> torch.Tensor:
        """Coefficients of a sum of Gaussians, which go around periodic CVs and are mirrored at the ends of others.

        Parameters
        ----------
        s
            Centres ``[hills, cvs]``.
        heights
            ``[hills]``.
        widths
            Standard deviation along each CV.
        """
        scaled = []
        for axis, values, width in zip(self.axes, self.values(s.double()), widths, strict=True):
            damping = torch.exp(-0.5 * (width * axis.frequencies) ** 2)
            scaled.append(values * damping * (math.sqrt(2 * math.pi) * width / axis.length))
        total = heights.double()[:, None]
        for values in scaled[:-1]:
            total = (total[:, :, None] * values[:, None]).flatten(1)
        return (total.T @ scaled[-1]).reshape(self.shape)

    def project(self, grid: torch.Tensor) -> torch.Tensor:
        """Coefficients of the series nearest to values at the bin centres, ``cvs.bins``, in the least squares."""
        result = grid.double()
        for index, axis in enumerate(self.axes):
            basis = axis.values(torch.from_numpy(self.cvs.centers(index))) / self.cvs.bins[index]
            result = torch.tensordot(result, basis, dims=([0], [0]))
        return result


def _contract(coefficients: torch.Tensor, factors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sum of the coefficients times one factor ``[batch, functions]`` per CV."""
    batch, first = factors[0].shape
    result = factors[0] @ coefficients.reshape(first, -1)
    for factor in factors[1:]:
        split = result.reshape(batch, factor.shape[1], -1)
        result = (factor[:, :, None] * split).sum(1)
    return result[:, 0]
