"""Samples of other programs: CVs or configurations, with weights if any, from COLVAR files, trajectories and arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import Map
from cgbench.contracts.system import System
from cgbench.errors import UserError, choices
from cgbench.exchange.formats import archives, openmm, plumed
from cgbench.exchange.formats.columns import read_columns
from cgbench.exchange.formats.csv_table import ANGLES
from cgbench.exchange.formats.options import refuse_physical_unit, refuse_unused
from cgbench.exchange.formats.text import LARGEST_SAMPLES, beginning, read_text, table
from cgbench.exchange.landscape import Options, energy_scale
from cgbench.exchange.names import cv_columns
from cgbench.exchange.trajectories import (
    ROUNDED,
    check_positions,
    collective_variables,
    configurations,
    read_trajectory,
)

__all__ = ["Samples", "read_samples", "sample_columns"]

Array = NDArray[np.float64]
SMALLEST_DEGREES = 90.0  # samples of angles in degrees that go no further are doubtful
MOST_OUTSIDE = 0.5  # share of the samples outside the domain of the CVs; more are refused
DENSITY = "log_density_of_reference_samples"


@dataclass(frozen=True)
class Samples:
    """Samples of a system.

    Attributes
    ----------
    format
        Where they are from, in words.
    s
        CVs in the order of time, ``[samples, cvs]``.
    log_weights
        Logarithms of the weights ``[samples]``, or None if there are none.
    columns
        Whether the CVs are columns of the file; else they were computed from positions.
    x
        Configurations, ``[samples, ...]``, if their energies are meaningful; else None.
    reference_log_density
        Log-density of a generative model at the reference samples of the system, or None.
    temperature
        Temperature of the samples in kelvin, as stated or as a bias was divided by; None if neither.
    assumed, notes, warnings
        What was assumed, what was done, and what is doubtful, in words.
    """

    format: str
    s: Array
    log_weights: Array | None
    columns: bool
    x: Array | None = None
    reference_log_density: Array | None = None
    temperature: float | None = None
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def sample_columns(system: System) -> tuple[int, int]:
    """Return the numbers of columns that arrays of CVs and of positions have."""
    return len(system.cvs), int(system.initial_configuration().numel())


def read_samples(
    path: Path,
    format: str,
    system: System,
    options: Options,
    only: Map | None = None,
) -> Samples:
    """Read samples and compute their CVs.

    Parameters
    ----------
    path
        COLVAR file ("colvar"), trajectory ("trajectory"), or .npy, .npz or columns of text ("samples").
    format
        One of `cgbench.exchange.formats.detect.SAMPLE_FORMATS`.
    system
        The system that the samples are of.
    options
        What the user says about the file.
    only
        The map whose CVs are returned; by default all CVs of the system.

    Raises
    ------
    UserError
        If a file is damaged or does not fit the system, or most samples are outside the domain of the CVs.
    """
    refuse_unused(path, format, options, system)
    cvs = system.cvs if only is None else only.cvs
    if format == "colvar":
        return _within(path, _from_colvar(path, system, options, cvs), cvs)
    if format == "trajectory":
        x = read_trajectory(path, system, options.topology)
        log_weights = _weights(path, None, len(x), options)
        samples = _of_positions(path, x, system, f"trajectory {path.suffix[1:].upper()}", log_weights)
    else:
        samples = _from_arrays(path, system, options)
    s = samples.s if only is None else only.select(samples.s)
    return _within(path, replace(samples, s=s, temperature=options.temperature), cvs)


def _within(path: Path, samples: Samples, cvs: CollectiveVariables) -> Samples:
    """Drop the samples outside the domain of CVs that are not periodic, and say so."""
    inside = cvs.bin_index(samples.s) >= 0
    if inside.all():
        return samples
    s, outside = cvs.wrap(samples.s), int((~inside).sum())
    ends = list(zip(cvs.names, s.T, cvs.lower, cvs.upper, strict=True))
    beyond = [f"{name} ({low:g} to {high:g})" for name, x, low, high in ends if not ((x >= low) & (x <= high)).all()]
    words = f"{outside:,} of {len(s):,} samples are outside the domain of {', '.join(beyond)}"
    hint = "check units and order of columns"
    if outside > MOST_OUTSIDE * len(s):
        raise UserError(f"{path}: {words}: {hint}")
    log_weights, x = (None if one is None else one[inside] for one in (samples.log_weights, samples.x))
    warnings = (*samples.warnings, f"{words} and dropped: {hint}")
    return replace(samples, s=samples.s[inside], log_weights=log_weights, x=x, warnings=warnings)


def _weights(path: Path, own: Array | None, count: int, options: Options) -> Array | None:
    """Return the logarithms of the weights of all samples in a file: its own, or those of --weights, or None."""
    where, found = path, own
    if options.weights is not None:
        if own is not None:
            raise UserError(f"{path} has weights of its own: leave out --weights {options.weights}")
        where = options.weights
        found = archives.logarithms(where, _read_weights(where))
    if found is not None and len(found) != count:
        raise UserError(f"{where} has {len(found):,} weights for {count:,} samples")
    return found


def _read_weights(path: Path) -> Array:
    if path.suffix.lower() == ".npy":
        return openmm.read_array(path).reshape(-1)
    lines = [line for line in read_text(path, LARGEST_SAMPLES) if not line.startswith("#")]
    return table(path, lines, 1)[:, 0]


def _from_colvar(path: Path, system: System, options: Options, cvs: CollectiveVariables) -> Samples:
    found = plumed.read_colvar(path, cvs.names, options)
    assumed: list[str] = []
    kelvin, bias = options.temperature, None
    if found.bias is not None:
        unit = options.unit or "kJ/mol"
        refuse_physical_unit(str(path), unit, system)
        assumed += [] if options.unit else ["unit kJ/mol: the default of the program (--unit gives another one)"]
        if unit != "kT" and kelvin is None:
            kelvin = system.temperature
            assumed.append(f"temperature {kelvin:g} K: that of the system (--temperature gives another one)")
        bias = energy_scale(unit, kelvin) * found.bias
    elif options.unit not in (None, "kT"):
        raise UserError(f"{path}: no bias is read, so there is no energy in {options.unit}: leave out --unit")
    s, degrees, doubts = _angles(path, found.cvs, cvs)
    return Samples(
        "PLUMED COLVAR",
        s,
        _weights(path, bias, len(s), options),
        columns=True,
        temperature=kelvin,
        assumed=(*degrees, *assumed),
        notes=found.notes,
        warnings=doubts,
    )


def _angles(
    path: Path, s: Array, cvs: CollectiveVariables, units: Sequence[str] = ()
) -> tuple[Array, tuple[str, ...], tuple[str, ...]]:
    """Return CVs in the unit of the system, what was assumed, and doubts.

    Angles are in the units that the file states for its columns, if it does for all of them. If not, values beyond a
    full circle in radians are taken for degrees. They may also be radians that were not wrapped into one period, but
    these seldom go as far as degrees do.
    """
    if not np.isfinite(s).all():
        raise UserError(f"{path}: {int((~np.isfinite(s)).any(axis=1).sum()):,} of {len(s):,} samples are not finite")
    factors = [ANGLES[unit.lower()] for unit in units if unit.lower() in ANGLES]
    if cvs.unit == "rad" and len(factors) == len(cvs):
        return s * factors, (), ()
    largest = float(np.abs(s).max())
    if cvs.unit != "rad" or largest <= 2 * np.pi * 1.01:
        return s, (), ()
    assumed = f"angles in degrees, converted to radians: values up to {largest:.4g} are beyond a full circle in radians"
    doubt = f"the angles go up to {largest:.4g} degrees only: if they are radians, wrap them into one period"
    return np.radians(s), (assumed,), (doubt,) if largest < SMALLEST_DEGREES else ()


def _from_arrays(path: Path, system: System, options: Options) -> Samples:
    """Read CVs or positions from an array, an archive, or text."""
    few, _ = sample_columns(system)
    arrays, names, units = _arrays(path)
    if "samples" in arrays:
        array = arrays.pop("samples")
        arrays[_kind(path, array.shape, system, bool(options.axes), any(names))] = array
    if ("cvs" in arrays) == ("positions" in arrays):
        raise UserError(f"{path} must have one of the arrays 'cvs' and 'positions'; it has {', '.join(sorted(arrays))}")
    if unknown := arrays.keys() - {*archives.SAMPLES, *archives.WEIGHTS, DENSITY}:
        raise UserError(
            f"{path} has arrays that are not read, {choices(unknown)}: beside 'cvs' or 'positions' it may have "
            f"{', '.join(archives.WEIGHTS)} and {DENSITY}"
        )
    density = archives.column(path, DENSITY, arrays[DENSITY]) if DENSITY in arrays else None
    own = archives.log_weights_in(path, arrays)
    what = "text" if names else "array"
    if "positions" in arrays:
        if options.axes:
            raise UserError(f"{path} holds positions, whose CVs the system computes: leave out --axes")
        x = configurations(path, arrays["positions"], system)
        log_weights = _weights(path, own, len(x), options)
        return _of_positions(path, x, system, f"{what} of positions", log_weights, density)
    s = arrays["cvs"][:, None] if arrays["cvs"].ndim == 1 and few == 1 else arrays["cvs"]
    s = archives.checked(path, "cvs", s, ("samples", "columns" if options.axes or any(names) else few))
    names, units = (known or ("",) * s.shape[1] for known in (names, units))
    places = cv_columns(names, system.cvs.names, options.axes, str(path))
    s, degrees, doubts = _angles(path, s[:, list(places)], system.cvs, [units[k] for k in places])
    return Samples(
        f"{what} of CVs",
        s,
        _weights(path, own, len(s), options),
        columns=True,
        reference_log_density=density,
        assumed=degrees,
        notes=(f"columns of the CVs: {', '.join(names[k] for k in places)}",) if any(names) else (),
        warnings=doubts,
    )


def _arrays(path: Path) -> tuple[dict[str, NDArray[Any]], tuple[str, ...], tuple[str, ...]]:
    """Return the arrays of a file by name, "samples" if they have none; of text also names and units of columns."""
    content, suffix = beginning(path), path.suffix.lower()
    if suffix == ".npy" or content.startswith(b"\x93NUMPY"):
        return {"samples": openmm.read_array(path)}, (), ()
    if suffix == ".npz" or content.startswith(b"PK"):
        return archives.read_arrays(path), (), ()
    table = read_columns(path)
    return {"samples": table.data}, table.names, table.units


def _kind(path: Path, shape: tuple[int, ...], system: System, chosen: bool, named: bool) -> str:
    """Return whether samples of some shape, whose columns the user chooses or the file names, are CVs or positions."""
    few, many = sample_columns(system)
    if len(shape) != 2:
        return "cvs" if len(shape) == few == 1 else "positions"
    columns = shape[1]
    if few == many == columns and not named:
        raise UserError(f"{path} may hold CVs or positions: write an npz with the array 'cvs' or 'positions'")
    if columns == few or named or (chosen and columns != many):
        return "cvs"
    if columns != many:
        found, known = f"{columns:,} column{'s' * (columns != 1)}", f"{few} CV{'s' * (few != 1)}"
        raise UserError(
            f"{path} has {found}, {system.name} has {known}: samples need the shape (frames, {few}), or --axes for the "
            "columns of the CVs; a PMF on a grid needs --format"
        )
    return "positions"


def _of_positions(
    path: Path,
    x: Array,
    system: System,
    words: str,
    log_weights: Array | None,
    density: Array | None = None,
) -> Samples:
    inside, notes = check_positions(path, x, system)
    rounded = path.suffix.lower() in ROUNDED
    if rounded:
        notes.append("XTC rounds positions to 0.001 nm: energies are not computed from them")
    x, log_weights = x[inside], None if log_weights is None else log_weights[inside]
    s = collective_variables(x, system)
    return Samples(
        words,
        s,
        log_weights,
        columns=False,
        x=None if rounded else x,
        reference_log_density=density,
        notes=tuple(notes),
    )
