"""The bias on a regular grid, interpolated by cubic B-splines, with its exact gradient.

The spline passes through the values at the nodes and has continuous second derivatives. A step costs the same however
many kernels there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
    return low + (high - low) / intervals * np.arange(count)


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
        self._coefficients: dict[torch.dtype, torch.Tensor] = {}
        self._exact = torch.full((int(np.prod(self.shape)),), value, dtype=torch.float64)

    def set(self, values: Array) -> None:
        """Interpolate `values` at the nodes."""
        coefficients = values
        for axis, periodic in enumerate(self.cvs.periodic):
            mode = "grid-wrap" if periodic else "mirror"
            coefficients = spline_filter1d(coefficients, 3, axis, mode=mode)
        self._exact = torch.from_numpy(np.ascontiguousarray(coefficients).reshape(-1))
        self._coefficients = {}

    def _like(self, s: torch.Tensor) -> torch.Tensor:
        found = self._coefficients.get(s.dtype)
        if found is None or found.device != s.device:
            found = self._coefficients[s.dtype] = self._exact.to(s)
        return found

    def _axis(self, s: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Indices, weights and slopes of the four splines that are not zero at ``s [batch]``, each ``[batch, 4]``."""
        low, high, count = self.cvs.lower[axis], self.cvs.upper[axis], self.intervals[axis]
        periodic = self.cvs.periodic[axis]
        scale = count / (high - low)
        place = ((s if periodic else s.clamp(low, high)) - low) * scale
        cell = place.nan_to_num(0.0, 0.0, 0.0).floor()  # NaN gives NaN through the weights
        if not periodic:
            cell = cell.clamp(max=count - 1)
        t = (place - cell)[:, None]
        u = 1.0 - t
        t2, u2 = t * t, u * u
        weights = torch.cat(
            [u2 * u / 6, 2 / 3 - t2 + 0.5 * t2 * t, 2 / 3 - u2 + 0.5 * u2 * u, t2 * t / 6], dim=1
        )
        slopes = torch.cat([-0.5 * u2, 1.5 * t2 - 2 * t, 2 * u - 1.5 * u2, 0.5 * t2], dim=1) * scale
        index = cell.long()[:, None] + torch.arange(-1, 3, device=s.device)
        if periodic:
            return index % count, weights, slopes
        within = ((s >= low) & (s <= high)).to(s)[:, None]
        index = index.abs()  # mirrored at the first and the last node
        return count - (count - index).abs(), weights, slopes * within

    def _around(self, s: torch.Tensor) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        """Coefficients of the splines that are not zero at `s`, ``[batch, 4^cvs]``, and weights and slopes by axis."""
        axes = [self._axis(s[:, axis], axis) for axis in range(len(self.cvs))]
        flat = axes[0][0]
        for (index, _, _), count in zip(axes[1:], self.shape[1:], strict=True):
            flat = (flat[:, :, None] * count + index[:, None]).flatten(1)
        return self._like(s)[flat], [(weights, slopes) for _, weights, slopes in axes]

    def energy(self, s: torch.Tensor) -> torch.Tensor:
        """Value ``[batch]`` at ``s [batch, cvs]``."""
        column, axes = self._around(s)
        for weights, _ in reversed(axes):
            column = (column.reshape(len(s), -1, 4) * weights[:, None]).sum(2)
        return column[:, 0]

    def energy_and_gradient(self, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Value ``[batch]`` and gradient ``[batch, cvs]`` at ``s [batch, cvs]``."""
        found, axes = self._around(s)
        # sum over the last CV first, with its weights and with its slopes
        columns = [found]
        for weights, slopes in reversed(axes):
            split = [column.reshape(len(s), -1, 4) for column in columns]
            columns = [(column * weights[:, None]).sum(2) for column in split]
            columns.append((split[0] * slopes[:, None]).sum(2))
        value, *gradient = (column[:, 0] for column in columns)
        return value, torch.stack(gradient[::-1], dim=1)
