"""The bias on a regular grid, interpolated by cubic B-splines, with its exact gradient.

The spline passes through the values at the nodes and has continuous second derivatives. A step costs the same however
many kernels there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import spline_filter1d

from cgbench.contracts.cvs import CollectiveVariables
from cgbench_methods.opes.kernels import Change, Kernels

__all__ = ["BiasTable", "KernelSums"]

Array = NDArray[np.float64]


def _axis_nodes(cvs: CollectiveVariables, axis: int, intervals: int) -> Array:
    """Nodes along one CV: one period without its end, or the domain with both ends."""
    low, high = cvs.lower[axis], cvs.upper[axis]
    count = intervals if cvs.periodic[axis] else intervals + 1
    return np.asarray(low + (high - low) / intervals * np.arange(count), dtype=np.float64)


class KernelSums:
    """The sum of all kernels at the nodes, updated by the kernels that change.

    Parameters
    ----------
    kernels
        Give cutoff and periods.
    intervals
        Number of intervals between nodes along each CV.
    """

    def __init__(self, kernels: Kernels, intervals: Sequence[int]) -> None:
        self.kernels = kernels
        self.nodes = [_axis_nodes(kernels.cvs, axis, count) for axis, count in enumerate(intervals)]
        self.values = np.zeros([len(nodes) for nodes in self.nodes])

    def update(self, change: Change) -> None:
        """Add the kernels of `change`; each reaches the nodes within its cutoff."""
        shift = self.kernels.shape.shift
        for centre, widths, height in zip(change.centres, change.widths, change.heights, strict=True):
            places, factors = [], []
            for axis in range(len(centre)):
                place, distance = self._within(axis, float(centre[axis]), float(widths[axis]))
                places.append(place)
                factors.append(np.exp(-0.5 * (distance / widths[axis]) ** 2))
            block = factors[0]
            for factor in factors[1:]:
                block = np.multiply.outer(block, factor)
            # a Gaussian minus its value at the cutoff is positive exactly within the cutoff
            self.values[np.ix_(*places)] += height * np.maximum(block - shift, 0.0)

    def _within(self, axis: int, centre: float, width: float) -> tuple[NDArray[np.int64], Array]:
        """Return the nodes within the cutoff along one CV, and their distances from the centre."""
        nodes, period = self.nodes[axis], float(self.kernels.periods[axis])
        spacing, count = nodes[1] - nodes[0], len(nodes)
        reach = self.kernels.shape.cutoff * width / spacing
        middle = (centre - nodes[0]) / spacing
        first, last = math.ceil(middle - reach), math.floor(middle + reach)
        if period == 0:
            place = np.arange(max(first, 0), min(last, count - 1) + 1)
            return place, nodes[place] - centre
        place = np.arange(count) if last - first + 1 >= count else np.arange(first, last + 1) % count
        distance = nodes[place] - centre
        return place, distance - period * np.round(distance / period)


# coefficients of 1, t, t^2, t^3 of the four cubic splines that are not zero in a cell, for t in [0, 1]
WEIGHTS = ((1 / 6, 2 / 3, 1 / 6, 0.0), (-0.5, 0.0, 0.5, 0.0), (0.5, -1.0, 0.5, 0.0), (-1 / 6, 0.5, -0.5, 1 / 6))
SLOPES = ((-0.5, 0.0, 0.5, 0.0), (1.0, -2.0, 1.0, 0.0), (-0.5, 1.5, -1.5, 0.5), (0.0, 0.0, 0.0, 0.0))


@dataclass(frozen=True)
class _Constants:
    """Tensors of the dtype and on the device of the points."""

    coefficients: torch.Tensor  # [nodes]
    lower: torch.Tensor  # [cvs], as the next three
    upper: torch.Tensor
    scale: torch.Tensor
    last: torch.Tensor  # index of the last cell
    weights: torch.Tensor  # [4, 4]
    slopes: torch.Tensor


class BiasTable:
    """A function on the domain of the CVs, as a cubic spline through values at regular nodes.

    It is periodic along periodic CVs, and constant outside the domain of others.

    Parameters
    ----------
    cvs
        The CVs.
    intervals
        Number of intervals between nodes along each CV.
    value
        Value everywhere, until `set` is called.
    """

    def __init__(self, cvs: CollectiveVariables, intervals: Sequence[int], value: float = 0.0) -> None:
        self.cvs, self.intervals = cvs, tuple(intervals)
        self.shape = tuple(len(_axis_nodes(cvs, axis, count)) for axis, count in enumerate(intervals))
        self._coefficients = torch.full((math.prod(self.shape),), value, dtype=torch.float64)
        self._constants: dict[tuple[torch.dtype, torch.device], _Constants] = {}

    def set(self, values: Array) -> None:
        """Interpolate `values` at the nodes."""
        coefficients = values
        for axis, periodic in enumerate(self.cvs.periodic):
            coefficients = spline_filter1d(coefficients, 3, axis, mode="grid-wrap" if periodic else "mirror")
        self._coefficients = torch.from_numpy(np.ascontiguousarray(coefficients).reshape(-1))
        self._constants = {}

    def _like(self, s: torch.Tensor) -> _Constants:
        found = self._constants.get((s.dtype, s.device))
        if found is None:
            lower, upper, counts = (torch.tensor(each) for each in (self.cvs.lower, self.cvs.upper, self.intervals))
            columns = (lower, upper, counts / (upper - lower), counts - 1, torch.tensor(WEIGHTS), torch.tensor(SLOPES))
            found = _Constants(self._coefficients.to(s), *(column.double().to(s) for column in columns))
            self._constants[s.dtype, s.device] = found
        return found

    def _around(self, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, _Constants]:
        """Coefficients of the splines that are not zero at `s`, ``[batch, 4^cvs]``, and powers ``[batch, cvs, 4]``."""
        constants = self._like(s)
        if not all(self.cvs.periodic):
            inside = s.clamp(constants.lower, constants.upper)
            s = torch.where(self._periodic.to(s.device), s, inside)
        place = (s - constants.lower) * constants.scale
        cell = place.nan_to_num(0.0, 0.0, 0.0).floor()  # NaN gives NaN through the powers
        if not all(self.cvs.periodic):
            cell = torch.where(self._periodic.to(s.device), cell, torch.minimum(cell, constants.last))
        t = place - cell
        powers = torch.stack([torch.ones_like(t), t, t * t, t * t * t], dim=-1)
        cells = cell.long()
        flat: torch.Tensor | None = None
        for axis, (count, periodic) in enumerate(zip(self.intervals, self.cvs.periodic, strict=True)):
            index = cells[:, axis, None] + torch.arange(-1, 3, device=s.device)
            # mirrored at the first and the last node of a CV that is not periodic
            index = index % count if periodic else count - (count - index.abs()).abs()
            flat = index if flat is None else (flat[:, :, None] * self.shape[axis] + index[:, None]).flatten(1)
        assert flat is not None
        return constants.coefficients[flat], powers, constants

    @property
    def _periodic(self) -> torch.Tensor:
        return torch.tensor(self.cvs.periodic)

    def energy(self, s: torch.Tensor) -> torch.Tensor:
        """Value ``[batch]`` at ``s [batch, cvs]``."""
        column, powers, constants = self._around(s)
        weights = powers @ constants.weights
        for axis in reversed(range(len(self.cvs))):
            column = (column.reshape(len(s), -1, 4) * weights[:, axis, None]).sum(2)
        return column[:, 0]

    def energy_and_gradient(self, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Value ``[batch]`` and gradient ``[batch, cvs]`` at ``s [batch, cvs]``."""
        found, powers, constants = self._around(s)
        weights, slopes = powers @ constants.weights, powers @ constants.slopes
        # sum over the last CV first, with its weights and with its slopes
        columns = [found]
        for axis in reversed(range(len(self.cvs))):
            split = [column.reshape(len(s), -1, 4) for column in columns]
            columns = [(column * weights[:, axis, None]).sum(2) for column in split]
            columns.append((split[0] * slopes[:, axis, None]).sum(2))
        value, *gradient = (column[:, 0] for column in columns)
        slope = torch.stack(gradient[::-1], dim=1) * constants.scale
        if not all(self.cvs.periodic):
            outside = ((s < constants.lower) | (s > constants.upper)) & ~self._periodic.to(s.device)
            slope = slope.masked_fill(outside, 0.0)
        return value, slope
