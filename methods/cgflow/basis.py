"""Fourier bases on the domain of the collective variables."""

from __future__ import annotations

import itertools
import math

import torch

from cgbench.pmf import CollectiveVariables

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

    def __call__(self, s: torch.Tensor) -> torch.Tensor:
        """Evaluate the modes, ``[batch, cvs] -> [batch, modes]``; differentiable."""
        product: torch.Tensor | None = None
        for axis, closed in enumerate(self._periodic):
            fraction = (s[:, axis] - self._lower[axis]) / (self._upper[axis] - self._lower[axis])
            k = torch.arange(1, self.order + 1, dtype=s.dtype, device=s.device)
            angle = (2 * math.pi if closed else math.pi) * fraction[:, None] * k
            waves = torch.stack([angle.cos(), angle.sin()], dim=2).flatten(1) if closed else angle.cos()
            table = torch.cat([torch.ones_like(s[:, :1]), math.sqrt(2.0) * waves], dim=1)
            factor = table[:, self._columns[axis].to(s.device)]
            product = factor if product is None else product * factor
        assert product is not None
        return product
