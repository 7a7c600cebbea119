"""The compressed kernel density estimate of OPES, and the bias that it defines.

After n deposits, with kernels G_k of height h_k, centre c_k and widths s_k, the estimate is

    P(s) = (1 / N) sum_k h_k max(exp(-r_k^2 / 2) - exp(-r_c^2 / 2), 0),   r_k^2 = sum_i ((s_i - c_ki) / s_ki)^2,

and the bias in kT is ``V(s) = a ln(P(s) / Z + epsilon)``, where Z is the mean of P over the centres. The variant metad
(Invernizzi and Parrinello, J. Phys. Chem. Lett. 11, 2731, 2020) has ``a = 1 - 1/gamma``, deposits of weight
``w = exp(V)`` and N the sum of weights. The variant explore (Invernizzi and Parrinello, J. Chem. Theory Comput. 18,
3988, 2022) has ``a = gamma - 1``, deposits of weight 1 and N their number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables

__all__ = ["Change", "Kernels", "Shape"]

Array = NDArray[np.float64]
CHUNK = 500_000  # pairs of points and kernels that are evaluated at a time


@dataclass(frozen=True)
class Shape:
    """The functional form of the bias.

    Attributes
    ----------
    barrier
        Height in kT that the bias may compensate; the bias is nowhere below its negative.
    bias_factor
        gamma of the target distribution ``p^(1/gamma)``.
    explore
        Whether the variant is explore.
    """

    barrier: float
    bias_factor: float
    explore: bool = False

    @property
    def prefactor(self) -> float:
        """Factor of the logarithm in the bias."""
        return self.bias_factor - 1.0 if self.explore else 1.0 - 1.0 / self.bias_factor

    @property
    def epsilon(self) -> float:
        """Regularisation of the logarithm, ``exp(-barrier / prefactor)``."""
        return math.exp(-self.barrier / self.prefactor)

    @property
    def cutoff(self) -> float:
        """Radius of a kernel in units of its widths."""
        return math.sqrt(2.0 * self.barrier / (1.0 if self.explore else self.prefactor))

    @property
    def shift(self) -> float:
        """Value of a Gaussian of height 1 at the cutoff."""
        return math.exp(-0.5 * self.cutoff**2)


@dataclass(frozen=True)
class Change:
    """Kernels that a deposit removed or added: centres and widths ``[kernels, cvs]`` and heights ``[kernels]``.

    The height of a removed kernel is negative.
    """

    centres: Array
    widths: Array
    heights: Array


class Kernels:
    """Compressed kernels: a new one merges with the nearest, if that is closer than one of its widths.

    Parameters
    ----------
    cvs
        The biased collective variables.
    shape
        The functional form of the bias.
    first_widths
        Widths of the first kernel along each CV, in the CV's unit. For the variant explore, those of unbiased sampling:
        they are multiplied by ``sqrt(gamma)``.
    least_widths
        Smallest widths of a new kernel.

    Attributes
    ----------
    centres, widths, heights
        ``[kernels, cvs]`` twice, and ``[kernels]``.
    z
        Mean of P over the centres; 1 before the first deposit.
    """

    def __init__(
        self, cvs: CollectiveVariables, shape: Shape, first_widths: Sequence[float], least_widths: Sequence[float]
    ) -> None:
        self.cvs, self.shape = cvs, shape
        self.first_widths = np.array(first_widths, dtype=np.float64)
        if shape.explore:
            self.first_widths = self.first_widths * math.sqrt(shape.bias_factor)
        self.least_widths = np.array(least_widths, dtype=np.float64)
        self.periods = np.where(cvs.periodic, np.array(cvs.upper) - np.array(cvs.lower), 0.0)  # 0 for none
        dimensions = len(cvs)
        self.centres: Array = np.zeros((0, dimensions))
        self.widths: Array = np.zeros((0, dimensions))
        self.heights: Array = np.zeros(0)
        self._at_centres: Array = np.zeros(0)  # sum of all kernels at each centre
        weight = shape.epsilon**shape.prefactor
        self.sum_weights, self.sum_squares, self.counter = weight, weight**2, 1
        self.z = 1.0

    def __len__(self) -> int:
        return len(self.heights)

    @property
    def effective_size(self) -> float:
        """Effective number of the deposits, from their weights."""
        return float((1.0 + self.sum_weights) ** 2 / (1.0 + self.sum_squares))

    @property
    def norm(self) -> float:
        """The number that the sum of kernels is divided by."""
        return float(self.counter) if self.shape.explore else self.sum_weights

    def new_widths(self) -> Array:
        """Widths of a kernel deposited now (Silverman's rule), ``[cvs]``."""
        size = float(self.counter) if self.shape.explore else self.effective_size
        dimensions = len(self.first_widths)
        factor = (size * (dimensions + 2.0) / 4.0) ** (-1.0 / (dimensions + 4.0))
        return np.asarray(np.maximum(self.first_widths * factor, self.least_widths))

    def difference(self, a: Array, b: Array) -> Array:
        """Return ``a - b`` by the shorter way around periodic CVs; the last axis is that of the CVs."""
        delta = a - b
        return np.asarray(delta - self.periods * np.round(delta / np.where(self.periods > 0, self.periods, 1.0)))

    def sums(self, s: Array, change: Change | None = None) -> Array:
        """Sum of all kernels, or of those in `change`, at points ``s [points, cvs]``."""
        if change is None:
            change = Change(self.centres, self.widths, self.heights)
        result = np.zeros(len(s))
        if not len(change.heights) or not len(s):
            return result
        rows = max(1, CHUNK // len(change.heights))
        for first in range(0, len(s), rows):
            part = s[first : first + rows]
            squares = np.zeros((len(part), len(change.heights)))
            for axis, period in enumerate(self.periods):
                delta = np.subtract.outer(part[:, axis], change.centres[:, axis])
                if period > 0:
                    delta -= period * np.round(delta / period)
                delta /= change.widths[:, axis]
                delta *= delta
                squares += delta
            squares *= -0.5
            values = np.exp(squares, out=squares)
            values -= self.shape.shift
            np.maximum(values, 0.0, out=values)
            result[first : first + rows] = values @ change.heights
        return result

    def bias_of(self, sums: Array) -> Array:
        """Bias in kT where the kernels add up to `sums`."""
        ratio = np.maximum(sums, 0.0) / (self.norm * self.z)
        return np.asarray(self.shape.prefactor * np.log(ratio + self.shape.epsilon))

    def bias(self, s: Array) -> Array:
        """Bias ``[points]`` in kT at ``s [points, cvs]``, by summing over all kernels."""
        return self.bias_of(self.sums(s))

    def deposit(self, s: Array, bias: Array) -> Change:
        """Add one kernel per walker, one after the other, and return the net change of the kernels.

        Parameters
        ----------
        s, bias
            Collective variables ``[walkers, cvs]`` of the walkers, and the bias ``[walkers]`` in kT that each feels.
        """
        nothing = np.zeros((0, len(self.first_widths)))
        if not len(s):
            return Change(nothing, nothing, np.zeros(0))
        weights = np.exp(bias)
        self.counter += len(s)
        self.sum_weights += float(weights.sum())
        self.sum_squares += float((weights**2).sum())
        widths = self.new_widths()
        heights = (np.ones_like(weights) if self.shape.explore else weights) * np.prod(self.first_widths / widths)
        before = Change(self.centres, self.widths, self.heights)
        compression = _Compression(self, len(s))
        for centre, height in zip(self.cvs.wrap(s), heights, strict=True):
            compression.add(centre, widths, float(height))
        return self._adopt(before, compression)

    def _adopt(self, before: Change, compression: _Compression) -> Change:
        """Take the kernels of the compression, and update the sums at the centres and their mean."""
        number = compression.number
        origin = compression.origin[:number]
        kept = origin >= 0  # kernels that are as they were
        gone = np.ones(len(before.heights), dtype=bool)
        gone[origin[kept]] = False
        self.centres, self.widths = compression.centres[:number].copy(), compression.widths[:number].copy()
        self.heights = compression.heights[:number].copy()
        change = Change(
            np.concatenate([before.centres[gone], self.centres[~kept]]),
            np.concatenate([before.widths[gone], self.widths[~kept]]),
            np.concatenate([-before.heights[gone], self.heights[~kept]]),
        )
        at_centres = np.zeros(number)
        at_centres[kept] = self._at_centres[origin[kept]] + self.sums(self.centres[kept], change)
        at_centres[~kept] = self.sums(self.centres[~kept])
        self._at_centres = at_centres
        self.z = float(at_centres.mean()) / self.norm
        return change

    def state_dict(self) -> dict[str, Any]:
        """Return the kernels and the sums of weights."""
        arrays = (self.first_widths, self.centres, self.widths, self.heights, self._at_centres)
        return {
            "arrays": [torch.from_numpy(array) for array in arrays],
            "numbers": [self.sum_weights, self.sum_squares, self.counter, self.z],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        arrays = (array.numpy().copy() for array in state["arrays"])
        self.first_widths, self.centres, self.widths, self.heights, self._at_centres = arrays
        self.sum_weights, self.sum_squares = float(state["numbers"][0]), float(state["numbers"][1])
        self.counter, self.z = int(state["numbers"][2]), float(state["numbers"][3])


class _Compression:
    """The kernels while one after the other is added; `origin` is the index before, -1 for kernels that changed."""

    def __init__(self, kernels: Kernels, room: int) -> None:
        self.kernels, self.number = kernels, len(kernels)
        dimensions = len(kernels.first_widths)
        self.centres = np.concatenate([kernels.centres, np.zeros((room, dimensions))])
        self.widths = np.concatenate([kernels.widths, np.ones((room, dimensions))])
        self.heights = np.concatenate([kernels.heights, np.zeros(room)])
        self.origin = np.concatenate([np.arange(self.number), np.full(room, -1)])

    def add(self, centre: Array, widths: Array, height: float) -> None:
        """Add one kernel, and merge as long as a kernel is within a width of another."""
        found = self._nearest(centre)
        if found is None:
            last = self.number
            self.centres[last], self.widths[last], self.heights[last], self.origin[last] = centre, widths, height, -1
            self.number += 1
            return
        self._merge(found, centre, widths, height)
        while (other := self._nearest(self.centres[found], found)) is not None:
            keep, drop = min(found, other), max(found, other)
            self._merge(keep, self.centres[drop].copy(), self.widths[drop].copy(), float(self.heights[drop]))
            for array in (self.centres, self.widths, self.heights, self.origin):
                array[drop : self.number - 1] = array[drop + 1 : self.number]
            self.number -= 1
            found = keep

    def _nearest(self, centre: Array, itself: int | None = None) -> int | None:
        """Return the nearest kernel, in units of its own widths, if it is closer than one; never `itself`."""
        if not self.number:
            return None
        delta = self.kernels.difference(self.centres[: self.number], centre) / self.widths[: self.number]
        squares = np.einsum("ki,ki->k", delta, delta)
        if itself is not None:
            squares[itself] = np.inf
        nearest = int(squares.argmin())
        return nearest if squares[nearest] < 1.0 else None

    def _merge(self, index: int, centre: Array, widths: Array, height: float) -> None:
        """Replace a kernel by one with the sum of the heights, and the mean and variance of the two together."""
        own = self.heights[index]
        total = own + height
        # relative to the centre of the other kernel: this unwraps periodic CVs, and rounds less than absolute squares
        apart = self.kernels.difference(self.centres[index], centre)
        mean = own * apart / total
        variance = (own * (self.widths[index] ** 2 + apart**2) + height * widths**2) / total - mean**2
        self.centres[index] = self.kernels.cvs.wrap(centre + mean)
        self.widths[index], self.heights[index], self.origin[index] = np.sqrt(variance), total, -1
