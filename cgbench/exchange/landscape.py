"""What a file of another program holds: values at the points of a grid, before they are interpreted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cgbench.errors import UserError, choices

__all__ = ["GAS_CONSTANT", "UNITS", "Axis", "Hints", "Landscape", "Options", "energy_scale", "from_points"]

Array = NDArray[np.float64]
Quantity = Literal["free energy", "density"]
GAS_CONSTANT = 8.31446261815324e-3  # kJ/(mol K), exact since 2019
UNITS = {"kJ/mol": 1.0, "kcal/mol": 4.184, "kT": None}  # in kJ/mol
SAME = 1e-3  # coordinates that differ by less, as a fraction of the spacing, are the same point
EVEN = 0.02  # largest deviation of a coordinate from even spacing, as a fraction of the spacing


@dataclass(frozen=True)
class Axis:
    """One axis of a landscape.

    Attributes
    ----------
    coordinates
        Increasing coordinates of the points, as in the file.
    name
        Name of the CV in the file; "" if it has none.
    periodic
        Whether the file says that the CV is periodic; None if it says nothing.
    unit
        "rad" if the file says that the coordinates are angles in radians; "" if it says nothing.
    """

    coordinates: Array
    name: str = ""
    periodic: bool | None = None
    unit: str = ""

    @property
    def spacing(self) -> float:
        """Mean distance of neighbouring points."""
        return float(self.coordinates[-1] - self.coordinates[0]) / (len(self.coordinates) - 1)


@dataclass(frozen=True)
class Hints:
    """What the user says about a file; None and empty where nothing is said.

    Attributes
    ----------
    unit
        Unit of the energies: "kJ/mol", "kcal/mol" or "kT".
    temperature
        Temperature of the PMF in kelvin.
    axes
        For each CV of the system, the name or the number (from 1) of its axis or column in the file.
    ranges
        Lower end, upper end and number of bins of each axis of a file without coordinates, in the file's order.
    bias
        Column of the bias in samples.
    bias_factor
        Bias factor of well-tempered metadynamics, for raw biases.
    """

    unit: str | None = None
    temperature: float | None = None
    axes: tuple[str, ...] = ()
    ranges: tuple[tuple[float, float, int], ...] = ()
    bias: str | None = None
    bias_factor: float | None = None


@dataclass(frozen=True)
class Options(Hints):
    """All that a user can say about a file: the hints for its reader, and how it is scored.

    Attributes
    ----------
    format
        One of `cgbench.exchange.formats.detect.PMF_FORMATS` or `SAMPLE_FORMATS`; by default it is found out.
    topology, weights
        Topology of a trajectory, and one weight for each sample.
    estimator
        One of `cgbench.exchange.score.ESTIMATORS`: which PMF of samples is scored; the other one is scored beside it.
    map
        Name of the map that the file is on, of a system with several; by default the names of the file's axes tell.
    """

    format: str | None = None
    topology: Path | None = None
    weights: Path | None = None
    estimator: str = "histogram"
    map: str | None = None


@dataclass(frozen=True)
class Landscape:
    """Free energies or densities at the points of a grid.

    Attributes
    ----------
    format
        The format in words.
    axes
        One axis for each CV.
    values
        Free energies in `unit`, or densities, shape of the axes; infinite (or a density of zero) where nothing was
        sampled.
    quantity
        What the values are.
    unit
        Unit of free energies as the file states it; None if it does not.
    usual_unit
        The unit that the program uses unless it is told another one; None without such a default.
    temperature
        In kelvin; None if the file does not say.
    error
        Standard errors of free energies in `error_unit`, or None.
    error_unit
        Unit of the standard errors; None for that of the free energies.
    assumed
        What the reader assumed, each in words.
    notes
        What the reader did that the user should know.
    usual_temperature
        The temperature that the program assumes unless it is told another one.
    """

    format: str
    axes: tuple[Axis, ...]
    values: Array
    quantity: Quantity = "free energy"
    unit: str | None = None
    temperature: float | None = None
    error: Array | None = None
    error_unit: str | None = None
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    usual_unit: str | None = None
    usual_temperature: float | None = None

    @property
    def visited(self) -> NDArray[np.bool_]:
        """Where a value is known, shape of the axes."""
        known = np.isfinite(self.values)
        return known & (self.values > 0) if self.quantity == "density" else known


def energy_scale(unit: str, temperature: float | None) -> float:
    """Return the factor from a unit of energy to kT.

    Raises
    ------
    UserError
        If the unit is unknown, or not kT and there is no temperature.
    """
    if unit not in UNITS:
        raise UserError(f"unknown unit {unit!r} (--unit): choose from {choices(UNITS)}")
    factor = UNITS[unit]
    if factor is None:
        return 1.0
    if temperature is None:
        raise UserError(f"energies in {unit} need a temperature in kelvin: give --temperature")
    return factor / (GAS_CONSTANT * temperature)


def _distinct(column: Array) -> Array:
    """Return the different coordinates of a column, increasing; those that differ by rounding are one."""
    values = np.unique(column)
    if len(values) < 2:
        return values
    gaps = np.diff(values)
    return np.asarray(values[np.concatenate([[True], gaps > SAME * gaps.max()])])


def from_points(
    where: str, columns: Array, values: Sequence[Array], names: Sequence[str] = ()
) -> tuple[tuple[Axis, ...], list[Array]]:
    """Arrange values at scattered rows as arrays over a grid; the order of the rows does not matter.

    Parameters
    ----------
    where
        The file, for messages.
    columns
        Coordinates of the rows, ``[rows, cvs]``.
    values
        Arrays ``[rows]``.
    names
        Names of the axes.

    Returns
    -------
    axes, arrays
        The axes, and each of `values` on the grid.

    Raises
    ------
    UserError
        If a coordinate is not finite, or the rows are not the points of an evenly spaced grid, each once.
    """
    if not np.isfinite(columns).all():
        row = int(np.flatnonzero(~np.isfinite(columns).all(axis=1))[0])
        raise UserError(f"{where}: the coordinate in row {row + 1} of the data is not a finite number")
    coordinates = [_distinct(column) for column in columns.T]
    for axis, points in enumerate(coordinates):
        if len(points) < 2:
            raise UserError(f"{where}: axis {axis + 1} has {len(points)} point: a grid needs at least 2 along each CV")
        spacing = (points[-1] - points[0]) / (len(points) - 1)
        if np.abs(points - (points[0] + spacing * np.arange(len(points)))).max() > max(EVEN, SAME) * spacing:
            raise UserError(f"{where}: the points along axis {axis + 1} are not evenly spaced: is a row missing?")
    shape = tuple(len(points) for points in coordinates)
    size = int(np.prod(shape))
    if len(columns) != size:
        raise UserError(
            f"{where}: {len(columns):,} rows are no grid of {' x '.join(map(str, shape))} = {size:,} points: "
            "is the file truncated, or are there rows twice?"
        )
    index = np.zeros(len(columns), dtype=np.int64)
    for column, points in zip(columns.T, coordinates, strict=True):
        spacing = (points[-1] - points[0]) / (len(points) - 1)
        index = index * len(points) + np.rint((column - points[0]) / spacing).astype(np.int64)
    if len(np.unique(index)) != size:
        raise UserError(f"{where}: some points of the grid are there twice, and others are missing")
    arrays = []
    for value in values:
        array = np.empty(size)
        array[index] = value
        arrays.append(array.reshape(shape))
    labels = tuple(names) or ("",) * len(coordinates)
    return tuple(Axis(points, name) for points, name in zip(coordinates, labels, strict=True)), arrays
