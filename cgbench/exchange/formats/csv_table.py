"""CSV with a header: one column for each CV, then a free energy or a probability.

The header names the columns, with units in parentheses: ``phi (deg),psi (deg),free energy (kJ/mol)``. An empty
field means that nothing was sampled there, and so do an infinite free energy and a probability of zero.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cgbench.errors import UserError
from cgbench.exchange.formats.text import is_number, name_and_unit, read_text, separator
from cgbench.exchange.landscape import UNITS, Axis, Hints, Landscape, from_points

__all__ = ["ANGLES", "read", "value_column"]

SAMPLES = "if its rows are samples, give --format samples"
ENERGIES = ("free_energy", "pmf", "fes", "energy", "f", "g", "a", "w")
DENSITIES = ("probability", "density", "population", "p")
ERRORS = ("free_energy_std", "std", "error", "standard_error")
ANGLES = {"deg": np.pi / 180, "degree": np.pi / 180, "degrees": np.pi / 180, "rad": 1.0, "radian": 1.0, "radians": 1.0}
ANGLES["°"] = ANGLES["deg"]


def read(path: Path, hints: Hints) -> Landscape:
    """Read a PMF from CSV.

    Raises
    ------
    UserError
        If there is no header, a field is no number, or no column is a free energy or a probability.
    """
    lines = [line for line in read_text(path) if line.strip() and not line.startswith("#")]
    if not lines:
        raise UserError(f"{path} holds no data")
    try:
        rows = list(csv.reader(lines, delimiter=separator(lines[0]) or ","))
    except csv.Error as error:
        raise UserError(f"{path} is no CSV that can be read ({error}): is a quotation mark unbalanced?") from error
    header = [name_and_unit(title) for title in rows[0]]
    if len(rows) < 2 or any(is_number(name) for name in rows[0]):
        raise UserError(f"{path} needs a header that names the columns, such as 'phi (deg),psi (deg),free energy (kT)'")
    names = [name for name, _ in header]
    value = value_column(names)
    if value is None:
        raise UserError(
            f"{path} has columns {', '.join(names)}, none of which is 'free energy' or 'probability'; {SAMPLES}"
        )
    column, density = value
    errors = [k for k, name in enumerate(names) if name.lower() in ERRORS]
    others = {column, *errors, *(k for k, name in enumerate(names) if name.lower() in DENSITIES + ENERGIES)}
    coordinates = [k for k in range(len(names)) if k not in others]
    if not coordinates:
        raise UserError(f"{path} has no column of a CV beside {names[column]!r}")
    data = _numbers(path, rows[1:], len(names), {column: 0.0 if density else np.inf} | dict.fromkeys(errors, np.inf))
    values = [data[:, k] for k in (column, *errors)]
    try:
        axes, arrays = from_points(str(path), data[:, coordinates], values, [names[k] for k in coordinates])
    except UserError as error:
        raise UserError(f"{error} ({SAMPLES})") from error
    axes = tuple(_in_radians(path, axis, header[k][1]) for axis, k in zip(axes, coordinates, strict=True))
    if density:
        return Landscape("CSV", axes, arrays[0], "density")
    unit, *error_units = (_unit(path, rows[0][k], header[k][1]) for k in (column, *errors[:1]))
    if unit is None and hints.unit is None:
        raise UserError(f"{path}: the column {names[column]!r} names no unit: write it in parentheses, or give --unit")
    if not errors:
        return Landscape("CSV", axes, arrays[0], unit=unit)
    return Landscape("CSV", axes, arrays[0], unit=unit, error=arrays[1], error_unit=error_units[0])


def _unit(path: Path, title: str, unit: str) -> str | None:
    """Return the unit of energy that the title of a column names, or None."""
    found = unit.replace("k_B T", "kT").replace("kBT", "kT")
    if found and found not in UNITS:
        raise UserError(f"{path}: column {title!r} has the unit {found!r}: choose from {', '.join(UNITS)}")
    return found or None


def value_column(names: Sequence[str]) -> tuple[int, bool] | None:
    """Return the column of the free energy, or else of the probability, and whether it is the latter; None without."""
    for known, density in ((ENERGIES, False), (DENSITIES, True)):
        for k, name in enumerate(names):
            if name.lower() in known:
                return k, density
    return None


def _numbers(path: Path, rows: list[list[str]], columns: int, empty: dict[int, float]) -> np.ndarray:
    """Return the numbers of a table; `empty` has the columns with a value for empty fields."""
    data = np.empty((len(rows), columns))
    for k, row in enumerate(rows):
        if len(row) != columns:
            raise UserError(f"{path}: row {k + 1} has {len(row)} fields, the header has {columns}")
        for j, text in enumerate(row):
            if j in empty and not text.strip():
                data[k, j] = empty[j]
                continue
            if not is_number(text) or np.isnan(float(text)):
                raise UserError(f"{path}: row {k + 1} has {text[:30]!r} where a number should be")
            data[k, j] = float(text)
    return data


def _in_radians(path: Path, axis: Axis, unit: str) -> Axis:
    """Convert an angle with a stated unit to radians; other axes stay."""
    if unit.lower() not in ANGLES:
        return axis
    return replace(axis, coordinates=ANGLES[unit.lower()] * axis.coordinates, unit="rad")
