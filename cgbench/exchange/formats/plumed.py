"""PLUMED: grids of sum_hills, CONVERT_TO_FES and HISTOGRAM, and COLVAR files.

A file begins with ``#! FIELDS`` and the names of its columns; ``#! SET`` lines state the grid of each CV. The first CV
varies fastest, and the value is the column after the CVs, whatever its name. Values are at nodes: the end point of a
periodic CV is absent, except in older files. Names of CVs may contain dots.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgbench.errors import UserError, choices
from cgbench.exchange.formats.text import LARGEST_SAMPLES, number, read_text, table
from cgbench.exchange.landscape import Axis, Hints, Landscape, from_points
from cgbench.exchange.names import cv_columns

__all__ = ["Colvar", "read_colvar", "read_grid"]

Array = NDArray[np.float64]


def _headers(path: Path, lines: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return the names of the columns, and the constants of the SET lines; headers repeat at restarts."""
    fields: list[str] = []
    constants: dict[str, str] = {}
    for line in lines:
        if not line.startswith("#!"):
            continue
        words = line[2:].split()
        if words[:1] == ["FIELDS"]:
            if fields and words[1:] != fields:
                raise UserError(f"{path}: the columns change within the file, from {fields} to {words[1:]}")
            fields = words[1:]
        elif words[:1] == ["SET"] and len(words) == 3:
            constants[words[1]] = words[2]
    if not fields:
        raise UserError(f"{path} has no line '#! FIELDS ...', which PLUMED writes first")
    return fields, constants


def _refuse_kernels(path: Path, fields: list[str], constants: dict[str, str]) -> None:
    if "action" in constants or "logweight" in fields:
        raise UserError(
            f"{path} is a file of OPES kernels or of its state, not a PMF: score a grid, or the COLVAR file"
        )
    if "height" in fields and any(name.startswith("sigma_") for name in fields):
        raise UserError(f"{path} is a HILLS file, not a PMF: sum it with 'plumed sum_hills --hills {path.name}'")


def _data(path: Path, lines: list[str], columns: int) -> Array:
    kept = [(k + 1, line) for k, line in enumerate(lines) if not line.startswith("#")]
    return table(path, [line for _, line in kept], columns, [k for k, _ in kept])


def read_grid(path: Path, hints: Hints, density: bool | None = None) -> Landscape:
    """Read a grid that PLUMED wrote.

    Parameters
    ----------
    path, hints
        The file, and what the user says about it.
    density
        Whether the values are densities; None to find out.

    Raises
    ------
    UserError
        If it is no grid, or damaged.
    """
    lines = read_text(path)
    fields, constants = _headers(path, lines)
    _refuse_kernels(path, fields, constants)
    names = [name for name in fields if f"nbins_{name}" in constants]
    count = len(names)
    if not names or fields[:count] != names or len(fields) <= count:
        raise UserError(f"{path} is no PLUMED grid: its FIELDS are {' '.join(fields)}, and SET lines name {names}")
    data = _data(path, lines, len(fields))
    axes, (values,) = from_points(str(path), data[:, :count], [data[:, count]], names)
    read = tuple(_checked(path, axis, constants) for axis in axes)
    notes: list[str] = []
    value = fields[count]
    if density is None:
        if value.split(".")[-1] == "bias":  # METAD's own grid; sum_hills writes "file.free", with --negbias too
            raise UserError(
                f"{path}: column {value!r} is a bias, not a free energy: give the grid of sum_hills, or --format "
                "plumed-fes if it is one"
            )
        if density := _is_density(value, values, constants):
            notes.append(f"column {value!r} is taken for a density; --format plumed-fes takes it for a free energy")
    return Landscape(
        "PLUMED grid",
        read,
        values,
        "density" if density else "free energy",
        notes=tuple(notes),
        usual_unit="kJ/mol",
    )


def _is_density(name: str, values: Array, constants: dict[str, str]) -> bool:
    """Whether the column looks like that of a HISTOGRAM: named "h..." or "...dens...", normalised, never negative."""
    low = name.lower()
    named = low.startswith(("h", "prob", "dens")) and "normalisation" in constants
    return named and bool(np.isfinite(values).all() and (values >= 0).all())


def _checked(path: Path, axis: Axis, constants: dict[str, str]) -> Axis:
    """Compare an axis with its SET lines, and add what they say about periodicity."""
    name = axis.name
    bins = number(path, constants[f"nbins_{name}"], f"nbins_{name}")
    points = len(axis.coordinates)
    if points not in (bins, bins + 1):
        raise UserError(f"{path}: {points} points along {name}, but nbins_{name} is {bins:.0f}: is it truncated?")
    periodic = {"true": True, "false": False}.get(constants.get(f"periodic_{name}", ""))
    if f"min_{name}" in constants:
        first = number(path, constants[f"min_{name}"], f"min_{name}")
        if abs(axis.coordinates[0] - first) > 0.75 * axis.spacing:
            raise UserError(f"{path}: {name} begins at {axis.coordinates[0]:.6g}, but min_{name} is {first:.6g}")
    return replace(axis, periodic=periodic)


@dataclass(frozen=True)
class Colvar:
    """Columns of a COLVAR file: CVs ``[frames, cvs]``, and the bias in the file's unit of energy or None."""

    cvs: Array
    bias: Array | None
    notes: tuple[str, ...]


def read_colvar(path: Path, names: tuple[str, ...], hints: Hints) -> Colvar:
    """Read CVs and bias from a COLVAR file.

    Parameters
    ----------
    path
        The file.
    names
        Names of the CVs of the system, in its order; ``hints.axes`` are the columns if they have other names.
    hints
        With the bias column; by default "*.rbias", else the only column "*.bias".

    Raises
    ------
    UserError
        If a column is missing or has values that are not finite, or the bias is ambiguous.
    """
    lines = read_text(path, LARGEST_SAMPLES)
    fields, constants = _headers(path, lines)
    _refuse_kernels(path, fields, constants)
    data = _data(path, lines, len(fields))
    places = list(cv_columns(fields, names, hints.axes, str(path)))
    notes = [f"columns of the CVs: {', '.join(fields[k] for k in places)}"]
    restarts = sum(line.startswith("#! FIELDS") for line in lines) - 1
    notes += [f"{restarts} restarts"] if restarts > 0 else []
    column = _bias_column(path, fields, hints.bias)
    notes.append("no bias column: all weights are equal" if column is None else f"weights exp(bias/kT) from {column}")
    bias = None if column is None else data[:, fields.index(column)]
    cvs = data[:, places]
    broken = ~np.isfinite(cvs).all(axis=1) | (False if bias is None else ~np.isfinite(bias))
    if broken.any():
        raise UserError(f"{path}: {int(broken.sum()):,} of {len(data):,} rows have a CV or bias that is not finite")
    return Colvar(cvs, bias, tuple(notes))


def _bias_column(path: Path, fields: list[str], wanted: str | None) -> str | None:
    if wanted == "none":
        return None
    if wanted is not None:
        if wanted not in fields:
            raise UserError(f"{path} has no column {wanted!r} (--bias): choose from {choices(fields)}, or none")
        return wanted
    for ending in (".rbias", ".bias"):
        found = [name for name in fields if name.endswith(ending)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{path} has several bias columns ({', '.join(found)}): name the one to use with --bias")
    return None
