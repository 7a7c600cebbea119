"""Products of the Fourier functions of at most two collective variables (CVs).

With the functions ``f_a(s_i)`` of each CV (`FourierAxis`), the modes are the constant, ``f_a(s_i)``, and
``f_a(s_i) f_b(s_j)`` with i < j. Their number grows as the square of the number of CVs, and no table over all CVs is
needed. A series of them is a bilinear form of the functions of all CVs, which is evaluated as one matrix product.
"""

from __future__ import annotations

import math

import torch

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.lib.estimators.fourier import FourierAxis
from cgbench_methods.lib.lengths import units

__all__ = ["PairBasis"]

MARGIN = 0.1  # of a non-periodic domain, added at either end: there the cosines have zero slope


class PairBasis:
    """Modes of one and two CVs.

    Parameters
    ----------
    cvs
        The collective variables.
    order
        Largest wave number of a mode of one CV, and largest sum of the two wave numbers of a mode of two.

    Attributes
    ----------
    starts
        First function of each CV among those of all CVs, and their number at the end ``[cvs + 1]``.
    degree
        Number of CVs of each mode: 0, 1 or 2 ``[modes]``. The constant comes first, then the modes of one CV.
    squared_frequency
        Sum of the squared angular frequencies of each mode's factors ``[modes]``, in `cgbench_methods.lib.lengths`.
    """

    def __init__(self, cvs: CollectiveVariables, order: int) -> None:
        self.cvs, self.order = cvs, order
        waves = torch.arange(1, order + 1, dtype=torch.float64)
        self.axes: list[FourierAxis] = []
        numbers, starts = [], [0]  # wave number of each function; first function of each CV
        for low, high, periodic in zip(cvs.lower, cvs.upper, cvs.periodic, strict=True):
            pad = 0.0 if periodic else MARGIN * (high - low)
            unit = (2 * math.pi if periodic else math.pi) / (high - low + 2 * pad)
            self.axes.append(FourierAxis(low - pad, high + pad, periodic, unit * waves))
            numbers.append([0, *range(1, order + 1), *(range(1, order + 1) if periodic else ())])
            starts.append(starts[-1] + len(numbers[-1]))
        self.starts = starts
        first, second, degree = [0], [0], [0]  # function 0 is the constant of the first CV
        for start, of_axis in zip(starts, numbers, strict=False):
            first += [start + a for a in range(1, len(of_axis))]
        second += [0] * (len(first) - 1)
        degree += [1] * (len(first) - 1)
        for i, of_first in enumerate(numbers):
            for j in range(i + 1, len(numbers)):
                for a, wave_a in enumerate(of_first):
                    for b, wave_b in enumerate(numbers[j]):
                        if wave_a and wave_b and wave_a + wave_b <= order:
                            first.append(starts[i] + a)
                            second.append(starts[j] + b)
                            degree.append(2)
        self._first, self._second = torch.tensor(first), torch.tensor(second)
        self.degree = torch.tensor(degree)
        frequencies = [axis.frequencies * unit for axis, unit in zip(self.axes, units(cvs), strict=True)]
        squares = torch.cat(frequencies).square()
        self.squared_frequency = squares[self._first] + squares[self._second]

    def __len__(self) -> int:
        return len(self.degree)

    def functions(self, s: torch.Tensor) -> torch.Tensor:
        """Return the functions of all CVs ``[batch, functions]``."""
        return torch.cat([axis.values(s[:, index]) for index, axis in enumerate(self.axes)], dim=1)

    def __call__(self, s: torch.Tensor) -> torch.Tensor:
        """Evaluate the modes, ``[batch, cvs] -> [batch, modes]``; differentiable."""
        rows = self.functions(s).T.contiguous()  # rows are gathered faster than columns
        return (rows[self._first.to(s.device)] * rows[self._second.to(s.device)]).T

    def slopes(self, s: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the modes' derivatives along one CV, ``[batch, some]``, and the numbers of these modes ``[some]``.

        All other modes do not depend on this CV.
        """
        low, high = self.starts[axis], self.starts[axis + 1]
        in_first = (self._first >= low + 1) & (self._first < high)
        in_second = (self._second >= low + 1) & (self._second < high)
        chosen = (in_first | in_second).nonzero().squeeze(1)
        rows = self.functions(s).T.contiguous()
        changed = rows.clone()
        changed[low:high] = self.axes[axis].slopes(s[:, axis]).T
        first, second, own = self._first[chosen], self._second[chosen], in_first[chosen]
        moving = changed[torch.where(own, first, second)]
        return (moving * rows[torch.where(own, second, first)]).T, chosen

    def series(self, s: torch.Tensor, coefficients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Value ``[batch]`` and gradient ``[batch, cvs]`` of ``sum_j c_j mode_j(s)``."""
        form = self.form(coefficients)
        values, slopes = [], []
        for index, axis in enumerate(self.axes):
            of_axis, slopes_of_axis = axis.values_and_slopes(s[:, index])
            values.append(of_axis)
            slopes.append(slopes_of_axis)
        functions = torch.cat(values, dim=1)
        pulled = functions @ (form + form.T)
        value = 0.5 * (pulled * functions).sum(1)
        gradient = [
            (pulled[:, low:high] * slope).sum(1)
            for low, high, slope in zip(self.starts, self.starts[1:], slopes, strict=False)
        ]
        return value, torch.stack(gradient, dim=1)

    def form(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Return the matrix M with ``sum_j c_j mode_j(s) = f(s) M f(s)``, f the functions of all CVs."""
        size = self.starts[-1]
        return coefficients.new_zeros(size, size).index_put((self._first, self._second), coefficients)

    def terms(self, coefficients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the coefficients of all functions ``[functions]`` and of their products, symmetric, without constant.

        The series is ``c_0 + b.f(s) + 1/2 f(s) C f(s)``.
        """
        alone, size = self.degree == 1, self.starts[-1]
        single = coefficients.new_zeros(size).index_put((self._first[alone],), coefficients[alone])
        form = self.form(torch.where(self.degree == 2, coefficients, 0.0))
        return single, form + form.T

    def value(self, s: torch.Tensor, form: torch.Tensor) -> torch.Tensor:
        """Return the series with the matrix of `form`, ``[batch]``."""
        functions = self.functions(s)
        return ((functions @ form) * functions).sum(1)
