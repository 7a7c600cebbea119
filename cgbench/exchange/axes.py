"""Which axis of a landscape is which CV, in which unit, and where its points are in the domain of the CV.

Order, unit and place come from names and coordinates, never from the shape of an array. What they do not tell is
assumed, and said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import Map
from cgbench.errors import UserError, choices
from cgbench.exchange.landscape import EVEN, Axis, Hints, Landscape

__all__ = ["Oriented", "Points", "find_map", "orient"]

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
    order, said = _order([axis.name for axis in landscape.axes], cvs.names, hints.axes, where)
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


def find_map(names: Sequence[str], maps: Sequence[Map], wanted: str | None, where: str) -> Map:
    """Return the map that a PMF is on.

    Parameters
    ----------
    names
        Names of its axes; "" for axes without a name.
    maps
        The maps of the system.
    wanted
        Name of the map as the user gives it, or None.
    where
        The file, for messages.

    Raises
    ------
    UserError
        If there is no map of that name, or if there are several maps and the names do not fit exactly one.
    """
    known = {one.name: one for one in maps}
    if wanted is not None:
        if wanted not in known:
            raise UserError(f"the system has no map {wanted!r} (--map): choose from {choices(known)}")
        return known[wanted]
    fits = [one for one in maps if len(maps) == 1 or _fits(names, one.cvs.names)]
    if len(fits) != 1:
        named = f"its axes are called {', '.join(names)}" if any(names) else "it does not name its axes"
        raise UserError(f"{where} does not tell which map it is on: {named}; give --map: {choices(known)}")
    return fits[0]


def _fits(names: Sequence[str], cvs: Sequence[str]) -> bool:
    """Whether each CV is one of the axes, and each axis one of the CVs."""
    found = [[k for k, name in enumerate(names) if _matches(name, cv)] for cv in cvs]
    return len(names) == len(cvs) == len({one[0] for one in found if len(one) == 1})


def _matches(name: str, cv: str) -> bool:
    """Whether an axis is a CV, such as "phi.x", "t_phi" and "phi" for "phi", and "phi_2" and "phi2" for "phi 2"."""
    low = cv.lower()
    joined = re.sub(r"\s", "", low)
    return bool(name) and (
        low in (name.lower(), *name.lower().replace("_", ".").split("."))
        or joined in (re.sub(r"[\s_.]", "", part) for part in (name.lower(), *name.lower().split(".")))
    )


def _order(
    names: Sequence[str], cvs: Sequence[str], wanted: Sequence[str], where: str
) -> tuple[tuple[int, ...], list[str]]:
    """Return for each CV the number of its axis, and what was assumed."""
    if wanted:
        return _given(names, cvs, wanted, where), []
    if len(cvs) == 1:
        return (0,), []
    found = [[k for k, name in enumerate(names) if _matches(name, cv)] for cv in cvs]
    chosen = [one[0] for one in found if len(one) == 1]
    if len(chosen) == len(cvs) == len(set(chosen)):
        return tuple(chosen), []
    if len(chosen) == len(cvs) - 1 == len(set(chosen)):  # the last one is what remains
        (rest,) = set(range(len(cvs))) - set(chosen)
        return tuple(one[0] if len(one) == 1 else rest for one in found), []
    named = f"its axes are called {', '.join(names)}" if any(names) else "the file does not name its axes"
    return tuple(range(len(cvs))), [f"axes in the order {', '.join(cvs)}: {named} (--axes gives another order)"]


def _given(names: Sequence[str], cvs: Sequence[str], wanted: Sequence[str], where: str) -> tuple[int, ...]:
    known = {str(k + 1): k for k in range(len(names))} | {name: k for k, name in enumerate(names) if name}
    unknown = [name for name in wanted if name not in known]
    if unknown or len(wanted) != len(cvs) or len({known[name] for name in wanted}) != len(cvs):
        raise UserError(
            f"--axes {','.join(wanted)} does not name one axis of {where} for each of {', '.join(cvs)}: choose from "
            f"{choices(known)}"
        )
    return tuple(known[name] for name in wanted)


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
