"""CSV with a header: one column for each CV, then a free energy or a probability.

The header names the columns, with units in parentheses: ``phi (deg),psi (deg),free energy (kJ/mol)``. An empty field or
``inf`` means that nothing was sampled there.
"""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from cgbench.errors import UserError
from cgbench.exchange.formats.text import read_text
from cgbench.exchange.landscape import UNITS, Axis, Hints, Landscape, from_points

__all__ = ["read"]

ENERGIES = ("free_energy", "pmf", "fes", "energy", "f", "g", "a", "w")
DENSITIES = ("probability", "density", "population", "p")
ERRORS = ("free_energy_std", "std", "error", "standard_error")
ANGLES = {"deg": np.pi / 180, "degree": np.pi / 180, "degrees": np.pi / 180, "rad": 1.0, "radian": 1.0, "radians": 1.0}


def _parsed(name: str) -> tuple[str, str]:
    """Split "free energy (kJ/mol)" into a plain name and a unit."""
    match = re.fullmatch(r"\s*(.*?)\s*(?:[(\[/]\s*([^)\]]*?)\s*[)\]]?)?\s*", name)
    words, unit = (match[1], match[2] or "") if match is not None else (name, "")
    return re.sub(r"[\s-]+", "_", words.strip()), unit


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
    delimiter = next((mark for mark in (",", ";", "\t") if mark in lines[0]), ",")
    try:
        rows = list(csv.reader(lines, delimiter=delimiter))
    except csv.Error as error:
        raise UserError(f"{path} is no CSV that can be read ({error}): is a quotation mark unbalanced?") from error
    header = [_parsed(name) for name in rows[0]]
    if len(rows) < 2 or any(_is_number(name) for name in rows[0]):
        raise UserError(f"{path} needs a header that names the columns, such as 'phi (deg),psi (deg),free energy (kT)'")
    names = [name for name, _ in header]
    column, density = _value_column(path, names)
    errors = [k for k, name in enumerate(names) if name.lower() in ERRORS]
    others = {column, *errors, *(k for k, name in enumerate(names) if name.lower() in DENSITIES + ENERGIES)}
    coordinates = [k for k in range(len(names)) if k not in others]
    if not coordinates:
        raise UserError(f"{path} has no column of a CV beside {names[column]!r}")
    data = _numbers(path, rows[1:], len(names), {column, *errors})
    axes, arrays = from_points(
        str(path),
        data[:, coordinates],
        [data[:, column], *(data[:, k] for k in errors)],
        [names[k] for k in coordinates],
    )
    axes = tuple(_in_radians(path, axis, header[k][1]) for axis, k in zip(axes, coordinates, strict=True))
    unit = header[column][1].replace("k_B T", "kT").replace("kBT", "kT")
    if not density and unit and unit not in UNITS:
        raise UserError(f"{path}: column {rows[0][column]!r} has the unit {unit!r}: choose from {', '.join(UNITS)}")
    if not density and not unit and hints.unit is None:
        raise UserError(f"{path}: the column {names[column]!r} names no unit: write it in parentheses, or give --unit")
    return Landscape(
        "CSV",
        axes,
        arrays[0],
        "density" if density else "free energy",
        None if density else unit or None,
        error=arrays[1] if len(arrays) > 1 and not density else None,
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _value_column(path: Path, names: list[str]) -> tuple[int, bool]:
    """Return the column of the free energy, or else of the probability, and whether it is the latter."""
    for known, density in ((ENERGIES, False), (DENSITIES, True)):
        for k, name in enumerate(names):
            if name.lower() in known:
                return k, density
    raise UserError(f"{path} has columns {', '.join(names)}, none of which is 'free energy' or 'probability'")


def _numbers(path: Path, rows: list[list[str]], columns: int, optional: set[int]) -> np.ndarray:
    data = np.empty((len(rows), columns))
    for k, row in enumerate(rows):
        if len(row) != columns:
            raise UserError(f"{path}: row {k + 1} has {len(row)} fields, the header has {columns}")
        for j, text in enumerate(row):
            if j in optional and not text.strip():
                data[k, j] = np.inf
                continue
            if not _is_number(text) or np.isnan(float(text)):
                raise UserError(f"{path}: row {k + 1} has {text[:30]!r} where a number should be")
            data[k, j] = float(text)
    return data


def _in_radians(path: Path, axis: Axis, unit: str) -> Axis:
    """Convert an angle with a stated unit to radians; other axes stay."""
    if unit.lower() not in ANGLES and unit not in ("°",):
        return axis
    factor = np.pi / 180 if unit == "°" else ANGLES[unit.lower()]
    return replace(axis, coordinates=factor * axis.coordinates, unit="rad")
