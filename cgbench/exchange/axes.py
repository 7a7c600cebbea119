"""Axes of a landscape as those of CVs: in their order and unit, with their points in the domain of the CV.

Order, unit and place come from names and coordinates, never from the shape of an array. What they do not tell is
assumed, and said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.errors import UserError
from cgbench.exchange.landscape import EVEN, Axis, Hints, Landscape
from cgbench.exchange.names import axis_order

__all__ = ["Oriented", "Points", "orient"]

Array = NDArray[np.float64]
FULL_CIRCLE = 2 * np.pi
SAME_VALUE = 0.05  # kT or the file's unit; duplicated points that differ by more are mentioned


@dataclass(frozen=True)
class Points:
    """Evenly spaced points along one CV of the system.

    Attributes
    ----------
    first, spacing, count
        The points are ``first + spacing * (0, ..., count - 1)``, in the unit of the CV.
    closed
        Whether they go once around a periodic CV, without a gap and without a point twice.
    """

    first: float
    spacing: float
    count: int
    closed: bool

    def place(self, cvs: CollectiveVariables, axis: int, s: Array) -> Array:
        """Return where each `s` is, in steps from the first point; for a periodic CV within one period from it."""
        steps = (s - self.first) / self.spacing
        if cvs.periodic[axis]:
            period = (cvs.upper[axis] - cvs.lower[axis]) / self.spacing
            steps = (steps + 0.5) % period - 0.5
        return np.asarray(steps)

    def nearest(self, cvs: CollectiveVariables, axis: int, s: Array) -> NDArray[np.int64]:
        """Return the index of the nearest point to each `s`; -1 if it is more than half a step outside."""
        index = np.rint(self.place(cvs, axis, s)).astype(np.int64)
        if self.closed:
            return np.asarray(index % self.count)
        return np.where((index >= 0) & (index < self.count), index, -1)


@dataclass(frozen=True)
class Oriented:
    """A landscape whose axes are the CVs of a system.

    Attributes
    ----------
    points
        The points along each CV.
    values, visited, error
        As those of the landscape, with the axes in the order of the CVs.
    assumed, notes, warnings
        What was assumed, what was done, and what is doubtful, in words.
    """

    points: tuple[Points, ...]
    values: Array
    visited: NDArray[np.bool_]
    error: Array | None
    assumed: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def orient(landscape: Landscape, cvs: CollectiveVariables, hints: Hints, where: str) -> Oriented:
    """Match the axes of a landscape with CVs.

    Parameters
    ----------
    landscape
        What the file holds.
    cvs
        The CVs of the system.
    hints
        With ``hints.axes`` if the user says which axis is which CV.
    where
        The file, for messages.

    Raises
    ------
    UserError
        If the number of axes is wrong, names contradict the CVs, or the axes do not overlap their domain.
    """
    if len(landscape.axes) != len(cvs):
        raise UserError(
            f"{where} has {len(landscape.axes)} axes, but the PMF of the system is over {', '.join(cvs.names)}"
        )
    assumed, notes, warnings = list(landscape.assumed), list(landscape.notes), []
    order, said = axis_order([axis.name for axis in landscape.axes], cvs.names, hints.axes, where)
    assumed += said
    values, visited = landscape.values.transpose(order), landscape.visited.transpose(order)
    error = None if landscape.error is None else landscape.error.transpose(order)
    axes = [landscape.axes[k] for k in order]
    if cvs.unit == "rad":
        axes, more, doubts = _radians(axes, cvs)
        notes += more
        assumed += doubts
    points = []
    for k, axis in enumerate(axes):
        one, keep, said = _points(axis, cvs, k, where)
        notes += said
        if len(keep) < len(axis.coordinates):
            warnings += _differences(values, visited, one, k, cvs.names[k], keep)
            values, visited = values.take(keep, axis=k), visited.take(keep, axis=k)
            error = None if error is None else error.take(keep, axis=k)
        if not one.closed and cvs.periodic[k]:
            warnings.append(f"{cvs.names[k]} is covered only in part: {_range(one)} {cvs.unit}")
        points.append(one)
    return Oriented(tuple(points), values, visited, error, tuple(assumed), tuple(notes), tuple(warnings))


def _range(points: Points) -> str:
    return f"{points.first:.4g} to {points.first + points.spacing * (points.count - 1):.4g}"


def _radians(axes: Sequence[Axis], cvs: CollectiveVariables) -> tuple[list[Axis], list[str], list[str]]:
    """Convert angles to radians: degrees are known from coordinates beyond a full circle in radians."""
    unknown = [axis for axis in axes if axis.unit != "rad"]
    if not unknown:
        return list(axes), [], []
    largest = max(float(np.abs(axis.coordinates).max()) for axis in unknown)
    if largest > FULL_CIRCLE * 1.01:
        factor = np.pi / 180
        turned = [a if a.unit == "rad" else Axis(factor * a.coordinates, a.name, a.periodic, "rad") for a in axes]
        return turned, ["angles in degrees, converted to radians"], []
    sure = all(_laps(axis, FULL_CIRCLE) is not None for axis in unknown)
    return list(axes), [], [] if sure else ["angles in radians: the coordinates do not tell"]


def _laps(axis: Axis, period: float) -> int | None:
    """Return how many points there are in one period, if the points go once around or further; else None."""
    count = round(period / axis.spacing)
    near = count > 1 and abs(count * axis.spacing - period) < 2 * EVEN * axis.spacing
    return count if near and len(axis.coordinates) >= count else None


def _points(axis: Axis, cvs: CollectiveVariables, k: int, where: str) -> tuple[Points, NDArray[np.int64], list[str]]:
    """Return the points of an axis, which of them are kept, and what was done."""
    x, low, high = axis.coordinates, cvs.lower[k], cvs.upper[k]
    everything = np.arange(len(x))
    if not cvs.periodic[k]:
        if x[-1] <= low or x[0] >= high:
            raise UserError(
                f"{where}: {cvs.names[k]} goes from {x[0]:.4g} to {x[-1]:.4g}, outside its domain {low:.4g} to "
                f"{high:.4g} {cvs.unit}".rstrip()
            )
        return Points(float(x[0]), axis.spacing, len(x), False), everything, []
    period = high - low
    count = _laps(axis, period)
    if count is None:
        span = axis.spacing * (len(x) - 1)
        if span > period * (1 + 1e-3):
            raise UserError(
                f"{where}: {cvs.names[k]} goes from {x[0]:.6g} to {x[-1]:.6g}, more than its period, in steps that do "
                "not divide it"
            )
        return Points(float(x[0]), axis.spacing, len(x), False), everything, []
    notes = []
    inside = np.flatnonzero(x >= low - 0.25 * axis.spacing)
    start = min(int(inside[0]) if len(inside) else 0, len(x) - count)
    extra = len(x) - count
    if extra == 1:
        notes.append(f"{cvs.names[k]}: the duplicated end point is dropped")
    elif extra:
        notes.append(f"{cvs.names[k]}: {extra} points beyond one period are dropped")
    if x[start] < low - 0.75 * axis.spacing or x[start + count - 1] > high + 0.75 * axis.spacing:
        notes.append(f"{cvs.names[k]}: range {x[start]:.4g} to {x[start + count - 1]:.4g} wrapped")
    return Points(float(x[start]), period / count, count, True), np.arange(start, start + count), notes


def _differences(
    values: Array, visited: NDArray[np.bool_], points: Points, k: int, name: str, keep: NDArray[np.int64]
) -> list[str]:
    """Say how far dropped points differ from those that they duplicate."""
    dropped = np.setdiff1d(np.arange(values.shape[k]), keep)
    twins = keep[(dropped - keep[0]) % points.count]
    both = visited.take(dropped, axis=k) & visited.take(twins, axis=k)
    if not both.any():
        return []
    worst = float(np.abs(values.take(dropped, axis=k) - values.take(twins, axis=k))[both].max())
    return [f"{name}: dropped points differ from their twins by up to {worst:.2g}"] if worst > SAME_VALUE else []
