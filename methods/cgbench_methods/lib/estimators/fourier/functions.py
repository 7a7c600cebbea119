"""Fourier functions of one CV, and series of all their products over several CVs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from cgbench.contracts.cvs import CollectiveVariables

__all__ = ["FourierAxis", "ProductSeries"]

ROOT2 = math.sqrt(2.0)


class FourierAxis:
    """The functions of one CV: the constant, then all cosines, then all sines (of a periodic CV).

    Outside the domain of a non-periodic CV they keep their value at the nearer end.

    Parameters
    ----------
    lower, upper
        The domain.
    periodic
        Whether the CV is periodic.
    frequencies
        Angular frequencies ``w_k``, increasing, float64 ``[waves]``. The two users of this class compute them with
        different rounding, and published numbers depend on the last bit.
    """

    def __init__(self, lower: float, upper: float, periodic: bool, frequencies: torch.Tensor) -> None:
        self.lower, self.upper, self.periodic = lower, upper, periodic
        self.length = upper - lower
        self._waves = frequencies
        self.frequencies = torch.cat([frequencies.new_zeros(1), *[frequencies] * (1 + periodic)])  # of each function

    def __len__(self) -> int:
        return len(self.frequencies)

    def _cosines_and_sines(self, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inside = s if self.periodic else s.clamp(self.lower, self.upper)
        phase = (inside - self.lower)[:, None] * self._waves.to(s)
        return phase.cos(), phase.sin()

    def _kept(self, cosine: torch.Tensor, sine: torch.Tensor) -> list[torch.Tensor]:
        return [cosine, sine] if self.periodic else [cosine]

    def _derivatives(self, s: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> list[torch.Tensor]:
        """Derivatives of the waves that `_kept` returns, for waves at `s`."""
        frequencies = self._waves.to(s)
        if self.periodic:
            return [-frequencies * sine, frequencies * cosine]
        within = ((s >= self.lower) & (s <= self.upper)).to(s)[:, None]
        return [-within * frequencies * sine]

    def values(self, s: torch.Tensor) -> torch.Tensor:
        """Functions ``[batch, functions]`` at ``s [batch]``."""
        waves = self._kept(*self._cosines_and_sines(s))
        return torch.cat([torch.ones_like(s)[:, None], *(ROOT2 * wave for wave in waves)], dim=1)

    def slopes(self, s: torch.Tensor) -> torch.Tensor:
        """Derivatives of the functions ``[batch, functions]`` at ``s [batch]``."""
        slopes = self._derivatives(s, *self._cosines_and_sines(s))
        return torch.cat([torch.zeros_like(s)[:, None], *(ROOT2 * slope for slope in slopes)], dim=1)

    def values_and_slopes(self, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Functions and their derivatives, both ``[batch, functions]``; half the work of separate calls."""
        cosine, sine = (ROOT2 * wave for wave in self._cosines_and_sines(s))
        values = torch.cat([torch.ones_like(s)[:, None], *self._kept(cosine, sine)], dim=1)
        return values, torch.cat([torch.zeros_like(s)[:, None], *self._derivatives(s, cosine, sine)], dim=1)


class ProductSeries:
    """All products of the functions of each CV, with a tensor of coefficients.

    Along a periodic CV there are waves up to `order`, along others cosines up to twice that: both resolve `order`
    waves across the domain with ``2 order + 1`` functions.

    Parameters
    ----------
    cvs
        The collective variables.
    order
        Largest number of waves across the domain, along every CV.
    """

    def __init__(self, cvs: CollectiveVariables, order: int) -> None:
        self.cvs, self.order = cvs, order
        self.axes = []
        for lower, upper, periodic in zip(cvs.lower, cvs.upper, cvs.periodic, strict=True):
            numbers = torch.arange(1, (order if periodic else 2 * order) + 1, dtype=torch.float64)
            frequencies = numbers * (2 * math.pi if periodic else math.pi) / (upper - lower)
            self.axes.append(FourierAxis(lower, upper, periodic, frequencies))

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
        """Coefficients of a sum of Gaussians, wrapped around periodic CVs and mirrored at the ends of others.

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
        """Coefficients of the least-squares series through values at the bin centres, of shape ``cvs.bins``."""
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
