"""From values at points to probabilities of bins: the integral of ``exp(-F)`` over each bin of a grid.

If the points are the centres of the bins, or of equal parts of them, each value stands for its part: the free energy of
a histogram's bin, or the midpoint rule for a function. No interpolation is involved, and a PMF on the system's own grid
comes back as it was.

On any other grid the free energy is interpolated by the tensor product of cubic splines (periodic along closed axes,
not-a-knot along others), and ``exp(-F)`` is integrated by the midpoint rule on at least four parts of each bin along
each CV, as `PMF.from_function` does. For a smooth free energy the error of the spline is of fourth order in the spacing
of the points, and that of the midpoint rule of second order in the parts. The same integral with linear interpolation,
of second order, is kept beside it: the difference between the two scores is the *stated interpolation error*. It is
larger than the error of the cubic interpolation of a smooth free energy; it cannot show features that are narrower than
the spacing.

Points that were not visited have probability zero: a part of a bin counts as unvisited if its nearest point is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, make_interp_spline
from scipy.ndimage import distance_transform_edt

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.pmf import LARGEST_FREE_ENERGY
from cgbench.errors import UserError
from cgbench.exchange.axes import Oriented, Points
from cgbench.exchange.landscape import EVEN

__all__ = ["Binned", "interpolate", "to_bins"]

Array = NDArray[np.float64]
FEWEST_PARTS = 4  # parts of a bin along each CV
MOST_CELLS = 4_000_000  # parts of all bins


@dataclass(frozen=True)
class Binned:
    """Probabilities of the bins of a grid, not normalised.

    Attributes
    ----------
    probability
        Shape of the grid.
    linear
        The same with linear interpolation; None if nothing was interpolated.
    error
        Standard errors of free energies in the landscape's unit, if the points are the bin centres.
    where
        Where the points are relative to the bins, in words.
    """

    probability: Array
    linear: Array | None
    error: Array | None
    where: str


def to_bins(oriented: Oriented, free_energy: Array, cvs: CollectiveVariables) -> Binned:
    """Integrate ``exp(-free_energy)`` over the bins of a grid; see the module for how.

    Parameters
    ----------
    oriented
        Points along each CV, and which values are known.
    free_energy
        In kT, shape of the points; ignored where nothing was visited.
    cvs
        CVs and grid.

    Raises
    ------
    UserError
        If no known value is on the grid.
    """
    if not oriented.visited.any():
        raise UserError("no point has a finite value")
    lowest = free_energy[oriented.visited].min()
    energy = np.where(oriented.visited, np.minimum(free_energy - lowest, LARGEST_FREE_ENERGY), np.inf)
    parts = [_parts(points, cvs, axis) for axis, points in enumerate(oriented.points)]
    where = "; ".join(f"{cvs.names[k]}: {_words(p, cvs, k, parts[k])}" for k, p in enumerate(oriented.points))
    if all(part is not None for part in parts):
        fine = [part for part in parts if part is not None]
        index = [p.nearest(cvs, k, cvs.centers(k, fine[k])) for k, p in enumerate(oriented.points)]
        values = np.where(_outside(index), np.inf, energy[np.ix_(*index)])
        whole = all(part == 1 for part in fine)
        error = oriented.error[np.ix_(*index)] if whole and oriented.error is not None else None
        return Binned(_checked(_summed(np.exp(-values), cvs, fine)), None, error, where)
    fine = _subdivisions(oriented, cvs)
    places = [cvs.centers(k, fine[k]) for k in range(len(cvs))]
    index = [p.nearest(cvs, k, places[k]) for k, p in enumerate(oriented.points)]
    unknown = _outside(index) | ~oriented.visited[np.ix_(*index)]
    filled = _filled(oriented, energy)
    found = []
    for degree in (3, 1):
        values = interpolate(filled, oriented.points, cvs, places, degree)
        values = np.where(unknown, np.inf, np.minimum(values, LARGEST_FREE_ENERGY))
        found.append(_checked(_summed(np.exp(-(values - values.min())), cvs, fine)))
    return Binned(found[0], found[1], None, where)


def _checked(probability: Array) -> Array:
    if not probability.sum() > 0:
        raise UserError("no known value is on the grid of the system: check the ranges of its axes")
    return probability


def _parts(points: Points, cvs: CollectiveVariables, axis: int) -> int | None:
    """Return r if the points are the centres of r equal parts of the bins, else None."""
    width = (cvs.upper[axis] - cvs.lower[axis]) / cvs.bins[axis]
    parts = max(1, round(width / points.spacing))
    centers = cvs.centers(axis, parts)
    if abs(width / parts - points.spacing) * len(centers) > 2 * EVEN * points.spacing:
        return None
    steps = points.place(cvs, axis, centers)
    return parts if np.abs(steps - np.rint(steps)).max() < EVEN else None


def _words(points: Points, cvs: CollectiveVariables, axis: int, parts: int | None) -> str:
    """Say where the points are relative to the bins."""
    last = points.first + points.spacing * (points.count - 1)
    words = f"{points.count} points from {points.first:.4g} to {last:.4g}"
    if parts is not None:
        return f"{words}, at bin centres" if parts == 1 else f"{words}, {parts} in each bin"
    width = (cvs.upper[axis] - cvs.lower[axis]) / cvs.bins[axis]
    steps = (points.first + points.spacing * np.arange(points.count) - cvs.lower[axis]) / width
    if np.abs(steps - np.rint(steps)).max() < EVEN:
        return f"{words}, at bin edges (nodes), interpolated"
    return f"{words}, on another grid, interpolated"


def _outside(index: list[NDArray[np.int64]]) -> NDArray[np.bool_]:
    outside: NDArray[np.bool_] = np.zeros(tuple(len(one) for one in index), dtype=bool)
    for k, one in enumerate(index):
        shape = [1] * len(index)
        shape[k] = len(one)
        outside |= (one < 0).reshape(shape)
    return outside


def _subdivisions(oriented: Oriented, cvs: CollectiveVariables) -> list[int]:
    """Return the parts of a bin along each CV: at least twice as fine as the points, within the limit of cells."""
    most = max(1, int((MOST_CELLS / math.prod(cvs.bins)) ** (1 / len(cvs))))
    found = []
    for k, points in enumerate(oriented.points):
        width = (cvs.upper[k] - cvs.lower[k]) / cvs.bins[k]
        found.append(min(max(FEWEST_PARTS, math.ceil(2 * width / points.spacing)), most))
    return found


def _summed(density: Array, cvs: CollectiveVariables, parts: list[int]) -> Array:
    shape: list[int] = []
    for bins, part in zip(cvs.bins, parts, strict=True):
        shape += [bins, part]
    return np.asarray(density.reshape(shape).sum(axis=tuple(range(1, 2 * len(cvs), 2))))


def _filled(oriented: Oriented, energy: Array) -> Array:
    """Give unvisited points the value of the nearest visited one, across the seam of closed axes too."""
    if oriented.visited.all():
        return energy
    widths = [(p.count // 2, p.count // 2) if p.closed else (0, 0) for p in oriented.points]
    wrapped = np.pad(oriented.visited, widths, mode="wrap")
    nearest = distance_transform_edt(~wrapped, return_distances=False, return_indices=True)
    middle = tuple(slice(low, low + p.count) for (low, _), p in zip(widths, oriented.points, strict=True))
    index = tuple((nearest[k][middle] - widths[k][0]) % oriented.points[k].count for k in range(len(oriented.points)))
    return np.asarray(energy[index])


def interpolate(
    values: Array, points: tuple[Points, ...], cvs: CollectiveVariables, places: list[Array], degree: int = 3
) -> Array:
    """Interpolate values at points by splines, one axis after the other.

    Parameters
    ----------
    values
        Shape of the points, finite.
    points
        The points along each CV.
    cvs
        The CVs.
    places
        Where to interpolate along each CV; up to half a step outside the points the spline is continued.
    degree
        3 or 1.

    Returns
    -------
    numpy.ndarray
        One axis for each of `places`.
    """
    for k, (one, s) in enumerate(zip(points, places, strict=True)):
        steps = one.place(cvs, k, s)
        x = np.arange(one.count + one.closed, dtype=np.float64)
        known = np.concatenate([values, values.take([0], axis=k)], axis=k) if one.closed else values
        if degree == 3:
            spline = CubicSpline(x, known, axis=k, bc_type="periodic" if one.closed else "not-a-knot")
        else:
            spline = make_interp_spline(x, known, k=1, axis=k)
        values = np.asarray(spline(steps % one.count if one.closed else steps))
    return values
