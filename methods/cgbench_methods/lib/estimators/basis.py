"""Fourier bases on the domain of the collective variables."""

from __future__ import annotations

import itertools
import math

import torch

from cgbench.contracts.cvs import CollectiveVariables

__all__ = ["FourierBasis"]


class FourierBasis:
    """Products of Fourier modes of the collective variables (CVs), the constant first.

    A periodic CV contributes ``1, cos(k w s), sin(k w s)`` with ``w = 2 pi / period``; a non-periodic one
    the cosines ``cos(pi k (s - lower) / (upper - lower))`` on the widened domain, which are complete on an
    interval. Modes are scaled by sqrt(2) for every varying factor: unit mean square on the domain.

    Parameters
    ----------
    cvs
        The collective variables.
    order
        Largest sum of the wave numbers of a product (with `product`: largest wave number of each factor).
    product
        Keep all products of factors up to `order`, not only those of total order.
    margin
        Fraction of a non-periodic domain added at either end, so that the zero slope of the cosines at
        their ends lies outside the domain.
    """

    def __init__(self, cvs: CollectiveVariables, order: int, product: bool = False, margin: float = 0.1) -> None:
        self.cvs = cvs
        self.order = order
        lower, upper, periodic = [], [], []
        for low, high, closed in zip(cvs.lower, cvs.upper, cvs.periodic, strict=True):
            pad = 0.0 if closed else margin * (high - low)
            lower.append(low - pad)
            upper.append(high + pad)
            periodic.append(closed)
        self._lower, self._upper, self._periodic = lower, upper, periodic
        per_axis = []
        for closed in periodic:  # factors of one axis: (wave number, position in the axis's table)
            modes = [(0, 0)]
            for k in range(1, order + 1):
                modes += [(k, 2 * k - 1), (k, 2 * k)] if closed else [(k, k)]
            per_axis.append(modes)
        chosen = [
            combination
            for combination in itertools.product(*per_axis)
            if product or sum(k for k, _ in combination) <= order
        ]
        chosen.sort(key=lambda combination: (sum(k for k, _ in combination), combination))
        self._columns = [torch.tensor([combination[axis][1] for combination in chosen]) for axis in range(len(cvs))]
        units = [
            (2 * math.pi if closed else math.pi) / (high - low)
            for low, high, closed in zip(lower, upper, periodic, strict=True)
        ]
        self.squared_frequency = torch.tensor(
            [sum((k * unit) ** 2 for (k, _), unit in zip(c, units, strict=True)) for c in chosen],
            dtype=torch.float64,
        )

    def __len__(self) -> int:
        return len(self.squared_frequency)

    def _tables(self, s: torch.Tensor, axis: int, derivative: bool = False) -> torch.Tensor:
        """Modes of one CV, or their derivatives, ``[batch, cvs] -> [batch, modes of the axis]``."""
        closed = self._periodic[axis]
        unit = (2 * math.pi if closed else math.pi) / (self._upper[axis] - self._lower[axis])
        k = unit * torch.arange(1, self.order + 1, dtype=s.dtype, device=s.device)
        angle = (s[:, axis] - self._lower[axis])[:, None] * k
        cos, sin = (-k * angle.sin(), k * angle.cos()) if derivative else (angle.cos(), angle.sin())
        waves = torch.stack([cos, sin], dim=2).flatten(1) if closed else cos
        constant = torch.zeros_like(s[:, :1]) if derivative else torch.ones_like(s[:, :1])
        return torch.cat([constant, math.sqrt(2.0) * waves], dim=1)

    def __call__(self, s: torch.Tensor, derivative: int | None = None) -> torch.Tensor:
        """Evaluate the modes, ``[batch, cvs] -> [batch, modes]``; differentiable.

        Parameters
        ----------
        derivative
            Evaluate the derivative with respect to this CV instead.
        """
        product: torch.Tensor | None = None
        for axis, columns in enumerate(self._columns):
            factor = self._tables(s, axis, axis == derivative)[:, columns.to(s.device)]
            product = factor if product is None else product * factor
        assert product is not None
        return product

    def series(self, s: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        """Value and slopes of ``sum_j c_j mode_j(s)``, ``[batch, cvs] -> [batch, 1 + cvs]``.

        Sums axis by axis, which spares the features of every point.
        """
        sizes = [int(columns.max()) + 1 for columns in self._columns]
        tensor = coefficients.new_zeros(sizes).index_put(tuple(self._columns), coefficients)
        plain = [self._tables(s, axis) for axis in range(len(sizes))]
        columns = []
        for derivative in (None, *range(len(sizes))):
            rest: torch.Tensor | None = None
            for axis, size in enumerate(sizes):
                table = self._tables(s, axis, derivative=True) if axis == derivative else plain[axis]
                if rest is None:
                    rest = table @ tensor.reshape(size, -1)
                else:
                    rest = torch.einsum("nm,nmr->nr", table, rest.reshape(len(s), size, -1))
            assert rest is not None
            columns.append(rest)
        return torch.cat(columns, dim=1)
