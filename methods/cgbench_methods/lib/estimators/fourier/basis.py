"""Selected products of the Fourier functions of several CVs: the modes of regressions and features of flows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.lib.estimators.fourier.functions import FourierAxis
from cgbench_methods.lib.lengths import units

__all__ = ["FourierBasis"]


class FourierBasis:
    """Selected products of the functions of each CV, the constant first, then by rising total wave number.

    Parameters
    ----------
    cvs
        The collective variables.
    order
        Largest sum of the wave numbers of a product (with `product`: largest wave number of each factor).
    product
        Keep all products over one or two CVs of factors up to `order`, not only those of total order.
    margin
        Fraction of a non-periodic domain added at either end: the zero slope of the cosines at their ends is then
        outside the domain.

    Attributes
    ----------
    axes
        The functions of each CV.
    functions
        For each CV, the number of the function of `axes` in every product ``[modes]``.
    squared_frequency
        Sum of the squared angular frequencies of each product's factors ``[modes]``, in `cgbench_methods.lib.lengths`.
        So a length scale means the same along CVs of any unit.
    """

    def __init__(self, cvs: CollectiveVariables, order: int, product: bool = False, margin: float = 0.1) -> None:
        self.cvs, self.order = cvs, order
        waves = range(1, order + 1)
        self.axes, factors = [], []  # of each axis: pairs of wave number and function
        for low, high, periodic in zip(cvs.lower, cvs.upper, cvs.periodic, strict=True):
            pad = 0.0 if periodic else margin * (high - low)
            lower, upper = low - pad, high + pad
            unit = (2 * math.pi if periodic else math.pi) / (upper - lower)
            self.axes.append(FourierAxis(lower, upper, periodic, unit * torch.tensor(waves, dtype=torch.float64)))
            factors.append([(0, 0), *((k, k) for k in waves), *((k, order + k) for k in waves if periodic)])

        def kept(waves: list[int]) -> bool:
            few = product and sum(k > 0 for k in waves) <= 2
            return few or sum(waves) <= order

        chosen = [c for c in itertools.product(*factors) if kept([k for k, _ in c])]
        chosen.sort(key=lambda c: (sum(k for k, _ in c), c))
        self.functions = [torch.tensor([c[axis][1] for c in chosen]) for axis in range(len(cvs))]
        # order of summation in `series`: by wave number, cosine before sine
        self._rising = [torch.tensor([function for _, function in sorted(pairs)]) for pairs in factors]
        frequencies = [
            axis.frequencies[functions] * unit
            for axis, functions, unit in zip(self.axes, self.functions, units(cvs), strict=True)
        ]
        self.squared_frequency = torch.stack(frequencies).square().sum(0)

    def __len__(self) -> int:
        return len(self.squared_frequency)

    def __call__(self, s: torch.Tensor, derivative: int | None = None) -> torch.Tensor:
        """Evaluate the modes, ``[batch, cvs] -> [batch, modes]``; differentiable.

        Parameters
        ----------
        derivative
            Evaluate the derivative with respect to this CV instead.
        """
        product: torch.Tensor | None = None
        for index, (axis, functions) in enumerate(zip(self.axes, self.functions, strict=True)):
            table = axis.slopes(s[:, index]) if index == derivative else axis.values(s[:, index])
            factor = table[:, functions.to(s.device)]
            product = factor if product is None else product * factor
        assert product is not None
        return product

    def on_product_grid(
        self, axes: Sequence[torch.Tensor], coefficients: torch.Tensor, derivative: int | None = None
    ) -> torch.Tensor:
        """Value of the series at all combinations of values of the CVs.

        Parameters
        ----------
        axes
            Values of each CV ``[n_i]``.
        coefficients
            One for each mode.
        derivative
            Evaluate the derivative with respect to this CV instead.

        Returns
        -------
        torch.Tensor
            ``[n_1, n_2, ...]``.
        """
        sizes = [len(axis) for axis in self.axes]
        result = coefficients.new_zeros(sizes).index_put(tuple(self.functions), coefficients)
        for index, (axis, values) in enumerate(zip(self.axes, axes, strict=True)):
            table = axis.slopes(values) if index == derivative else axis.values(values)
            result = torch.tensordot(result, table, dims=([0], [1]))
        return result

    def sum_on_product_grid(
        self, axes: Sequence[torch.Tensor], weights: torch.Tensor, derivative: int | None = None
    ) -> torch.Tensor:
        """Sum each mode over all combinations of values of the CVs, times their weights ``[n_1, n_2, ...]``.

        Parameters
        ----------
        axes, derivative
            As for `on_product_grid`.

        Returns
        -------
        torch.Tensor
            One sum for each mode.
        """
        result = weights
        for index, (axis, values) in enumerate(zip(self.axes, axes, strict=True)):
            table = axis.slopes(values) if index == derivative else axis.values(values)
            result = torch.tensordot(result, table, dims=([0], [0]))
        return result[tuple(self.functions)]

    def series(self, s: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
        """Value and gradient of ``sum_j c_j mode_j(s)``, ``[batch, cvs] -> [batch, 1 + cvs]``.

        Sums over one CV after the other, without the modes of every point.
        """
        sizes = [len(axis) for axis in self.axes]
        tensor = coefficients.new_zeros(sizes).index_put(tuple(self.functions), coefficients)
        for index, rising in enumerate(self._rising):
            tensor = tensor.index_select(index, rising)

        def in_order(tables: Iterable[torch.Tensor]) -> list[torch.Tensor]:
            return [table[:, rising.to(s.device)] for table, rising in zip(tables, self._rising, strict=True)]

        values = in_order(axis.values(s[:, index]) for index, axis in enumerate(self.axes))
        slopes = in_order(axis.slopes(s[:, index]) for index, axis in enumerate(self.axes))
        columns, size = [], sizes[0]
        first = values[0] @ tensor.reshape(size, -1)
        for derivative in (None, *range(len(sizes))):
            rest = slopes[0] @ tensor.reshape(size, -1) if derivative == 0 else first
            for index in range(1, len(sizes)):
                table = slopes[index] if index == derivative else values[index]
                shape = (len(s), sizes[index], math.prod(sizes[index + 1 :]))
                rest = torch.einsum("nm,nmr->nr", table, rest.reshape(shape))
            columns.append(rest)
        return torch.cat(columns, dim=1)
