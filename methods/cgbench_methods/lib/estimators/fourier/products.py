"""Sums of modes, and of products of two modes, over the bins of a grid.

A product of two Fourier functions of one CV is a sum of two:

    cos a cos b = (cos(a - b) + cos(a + b)) / 2,        and likewise with sines.

Hence ``sum_g w_g phi_j(s_g) phi_k(s_g)`` over the bins g needs only the moments of w with the functions of twice the
wave number, which are sums over one CV after the other. With n modes, N bins and a series of m functions along each of
d CVs the cost is about ``N m + 2^d n^2``, instead of ``N n^2``. The sums are exact.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterator, Sequence

import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.lib.estimators.fourier.basis import FourierBasis
from cgbench_methods.lib.estimators.fourier.functions import ROOT2, FourierAxis

__all__ = ["GridProducts"]

Wave = tuple[float, int, bool]  # factor, wave number, whether it is a sine
Pairs = tuple[torch.Tensor, torch.Tensor]  # positions of moments and factors, for pairs of functions or modes
ROWS = 64  # modes at once: what is computed for them fits into the cache


class GridProducts:
    """Gram matrices, quadratic forms and means of the modes of a basis on the grid of the CVs.

    Parameters
    ----------
    basis
        The modes.
    cvs
        CVs and grid; the modes are evaluated at the bin centres.
    """

    def __init__(self, basis: FourierBasis, cvs: CollectiveVariables) -> None:
        self.basis, self.order = basis, basis.order
        self.bins, self.modes = tuple(cvs.bins), len(basis)
        self.size = 4 * self.order + 1  # the constant, cosines, then sines of up to twice the order
        self._moments = []
        for number, axis in enumerate(basis.axes):
            phase = (torch.from_numpy(cvs.centers(number)) - axis.lower)[:, None]
            waves = torch.arange(1, 2 * self.order + 1, dtype=torch.float64) * axis.frequencies[1]
            parts = [torch.ones_like(phase), (phase * waves).cos(), (phase * waves).sin()]
            self._moments.append(torch.cat(parts, dim=1))
        strides = [self.size**power for power in reversed(range(len(self.bins)))]
        of_axes = [[_wave(function, axis, self.order) for function in range(len(axis))] for axis in basis.axes]
        slopes = [
            [_slope(wave, float(axis.frequencies[1])) for wave in of_axis]
            for axis, of_axis in zip(basis.axes, of_axes, strict=True)
        ]
        self._values = [self._pairs(*pair) for pair in zip(of_axes, strides, strict=True)]
        self._slopes = [self._pairs(*pair) for pair in zip(slopes, strides, strict=True)]

    def _pairs(self, waves: list[Wave], stride: int) -> list[Pairs]:
        """Return both terms of the products of two functions of one CV."""
        table = [[_product(a, b, 2 * self.order) for b in waves] for a in waves]
        terms = []
        for term in range(2):
            position = torch.tensor([[pair[term][0] for pair in row] for row in table]) * stride
            factor = torch.tensor([[pair[term][1] for pair in row] for row in table], dtype=torch.float64)
            terms.append((position, factor))
        return terms

    def gram(self, weights: torch.Tensor, derivative: int | None = None) -> torch.Tensor:
        """Return ``sum_g w_g phi_j(s_g) phi_k(s_g)`` ``[modes, modes]``.

        Parameters
        ----------
        weights
            ``w`` of each bin ``[cells]``.
        derivative
            Take the derivatives of the modes with respect to this CV instead.
        """
        moments = weights.reshape(self.bins)
        for functions in self._moments:
            moments = torch.tensordot(moments, functions, dims=([0], [0]))
        flat = moments.reshape(-1)
        result = torch.zeros(self.modes, self.modes, dtype=torch.float64)
        for rows in torch.arange(self.modes).split(ROWS):
            upper = result[rows[0] : rows[-1] + 1, rows[0] :]  # the matrix is symmetric
            for position, factor in self._terms(rows, derivative):
                upper += factor * flat[position]
        return result.triu() + result.triu(1).T

    def quadratic_form(self, matrix: torch.Tensor) -> torch.Tensor:
        """Return ``sum_jk phi_j(s_g) M_jk phi_k(s_g)`` at each bin, M symmetric, ``[modes, modes] -> [cells]``."""
        flat = torch.zeros(self.size ** len(self.bins), dtype=torch.float64)
        upper = 2.0 * matrix.triu(1) + matrix.diagonal().diag()
        for rows in torch.arange(self.modes).split(ROWS):
            own = upper[rows[0] : rows[-1] + 1, rows[0] :]
            for position, factor in self._terms(rows, None):
                flat.index_add_(0, position.reshape(-1), (factor * own).reshape(-1))
        result = flat.reshape((self.size,) * len(self.bins))
        for functions in self._moments:
            result = torch.tensordot(result, functions, dims=([0], [1]))
        return result.reshape(-1)

    def conditional_mean(self, axes: Sequence[int], probability: torch.Tensor) -> torch.Tensor:
        """Modes, averaged over all but some CVs.

        Parameters
        ----------
        axes
            The CVs that are kept.
        probability
            Weights of the mean at the bin centres ``[cells]``; only their ratios at the same kept CVs matter.

        Returns
        -------
        torch.Tensor
            At the bins of the kept CVs, in their order, ``[bins, modes]``.
        """
        tables = [
            axis.values(centres)[:, functions]
            for axis, functions, centres in zip(self.basis.axes, self.basis.functions, self.centres, strict=True)
        ]
        others = [axis for axis in range(len(self.bins)) if axis not in axes]
        p = probability.reshape(self.bins).permute(*axes, *others)
        features = p[..., None]
        for axis in reversed(others):
            features = (features * tables[axis]).sum(-2)
        for position, axis in enumerate(axes):
            shape = [1] * len(axes) + [self.modes]
            shape[position] = self.bins[axis]
            features = features * tables[axis].reshape(shape)
        total = p.sum(dim=tuple(range(len(axes), len(self.bins)))) if others else p
        return (features / total[..., None]).reshape(-1, self.modes)

    @functools.cached_property
    def centres(self) -> list[torch.Tensor]:
        """Bin centres along each CV."""
        cvs = self.basis.cvs
        return [torch.from_numpy(cvs.centers(axis)) for axis in range(len(cvs))]

    def _terms(self, rows: torch.Tensor, derivative: int | None) -> Iterator[Pairs]:
        """Yield the terms of the products of some modes with these and all later ones: positions and factors."""
        pairs = []
        for axis, functions in enumerate(self.basis.functions):
            tables = self._slopes[axis] if axis == derivative else self._values[axis]
            first, second = functions[rows], functions[rows[0] :]
            pairs.append([tuple(table[first][:, second] for table in term) for term in tables])
        for chosen in itertools.product(*pairs):
            positions, factors = zip(*chosen, strict=True)
            yield functools.reduce(operator.add, positions), functools.reduce(operator.mul, factors)


def _wave(function: int, axis: FourierAxis, order: int) -> Wave:
    """Describe a function of `FourierAxis` by its number."""
    if function == 0:
        return 1.0, 0, False
    return (ROOT2, function, False) if function <= order else (ROOT2, function - order, True)


def _slope(wave: Wave, unit: float) -> Wave:
    """Describe the derivative of a wave; `unit` is the angular frequency of wave number 1."""
    factor, number, sine = wave
    return (factor if sine else -factor) * unit * number, number, not sine


def _product(a: Wave, b: Wave, largest: int) -> tuple[tuple[int, float], tuple[int, float]]:
    """Return the product of two waves as two moments with factors; sines follow the `largest` cosines."""
    half = 0.5 * a[0] * b[0]
    low, high = a[1] - b[1], a[1] + b[1]
    if a[2] == b[2]:
        return (abs(low), half), (high, -half if a[2] else half)
    if b[2]:  # cos a sin b = (sin(a + b) - sin(a - b)) / 2
        low = -low
    return (largest + abs(low) if low else 0, half * ((low > 0) - (low < 0))), (
        largest + high if high else 0,
        half if high else 0.0,
    )
