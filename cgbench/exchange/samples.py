"""Samples of other programs: CVs or configurations, with weights if any, from COLVAR files, trajectories and arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.contracts.maps import Map
from cgbench.contracts.system import System
from cgbench.errors import UserError
from cgbench.exchange.formats import archives, openmm, plumed
from cgbench.exchange.formats.text import read_text, table
from cgbench.exchange.landscape import Hints, Options, energy_scale
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
LARGEST_TEXT = 1_000_000_000  # bytes of a file with weights
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
        Logarithms of the weights ``[samples]``; zeros if `weighted` is False.
    weighted
        Whether the file has weights.
    x
        Configurations, ``[samples, ...]``, if their energies are meaningful; else None.
    reference_log_density
        Log-density of a generative model at the reference samples of the system, or None.
    temperature
        Temperature that a bias was divided by; None if there was none.
    assumed, notes, warnings
        What was assumed, what was done, and what is doubtful, in words.
    """

    format: str
    s: Array
    log_weights: Array
    weighted: bool
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
        COLVAR file ("colvar"), trajectory ("trajectory"), or .npy or .npz ("samples").
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
        If a file is damaged or does not fit the system.
    """
    weights = options.weights
    if format == "colvar":
        samples = _from_colvar(path, system, options, system.cvs if only is None else only.cvs)
    elif format == "trajectory":
        x = read_trajectory(path, system, options.topology)
        samples = _of_positions(path, x, system, f"trajectory {path.suffix[1:].upper()}", np.zeros(len(x)), False)
    else:
        samples = _from_arrays(path, system)
    if only is not None and format != "colvar":
        samples = replace(samples, s=only.select(samples.s))
    if weights is None:
        return samples
    if samples.weighted:
        raise UserError(f"{path} has weights of its own: leave out --weights {weights}")
    return _weighted(samples, weights, _logarithms(weights, _read_weights(weights)))


def _weighted(samples: Samples, path: Path, log_weights: Array) -> Samples:
    if len(log_weights) != len(samples.s):
        raise UserError(f"{path} has {len(log_weights):,} weights for {len(samples.s):,} samples")
    return replace(samples, log_weights=log_weights, weighted=True)


def _read_weights(path: Path) -> Array:
    if path.suffix.lower() == ".npy":
        return openmm.read_array(path).reshape(-1)
    lines = [line for line in read_text(path, LARGEST_TEXT) if not line.startswith("#")]
    return table(path, lines, 1)[:, 0]


def _logarithms(path: Path, weights: Array) -> Array:
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise UserError(f"{path}: weights must be finite, not negative, and not all zero")
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(weights))


def _from_colvar(path: Path, system: System, hints: Hints, cvs: CollectiveVariables) -> Samples:
    found = plumed.read_colvar(path, cvs.names, hints)
    assumed: list[str] = []
    kelvin = None
    log_weights = np.zeros(len(found.cvs))
    if found.bias is not None:
        unit = hints.unit or "kJ/mol"
        assumed += [] if hints.unit else ["unit kJ/mol: the default of the program (--unit gives another one)"]
        if unit != "kT":
            kelvin = hints.temperature or system.temperature
            if hints.temperature is None:
                assumed.append(f"temperature {kelvin:g} K: that of the system (--temperature gives another one)")
        log_weights = energy_scale(unit, kelvin) * found.bias
    s, degrees, doubts = _angles(path, found.cvs, cvs)
    return Samples(
        "PLUMED COLVAR",
        s,
        log_weights,
        found.bias is not None,
        temperature=kelvin,
        assumed=(*degrees, *assumed),
        notes=found.notes,
        warnings=doubts,
    )


def _angles(path: Path, s: Array, cvs: CollectiveVariables) -> tuple[Array, tuple[str, ...], tuple[str, ...]]:
    """Return CVs in the unit of the system, what was assumed, and doubts.

    Values beyond a full circle in radians are taken for degrees. They may also be radians that were not wrapped into
    one period, but these seldom go as far as degrees do.
    """
    if not np.isfinite(s).all():
        raise UserError(f"{path}: {int((~np.isfinite(s)).any(axis=1).sum()):,} of {len(s):,} samples are not finite")
    largest = float(np.abs(s).max())
    if cvs.unit != "rad" or largest <= 2 * np.pi * 1.01:
        return s, (), ()
    assumed = f"angles in degrees, converted to radians: values up to {largest:.4g} are beyond a full circle in radians"
    doubt = f"the angles go up to {largest:.4g} degrees only: if they are radians, wrap them into one period"
    return np.radians(s), (assumed,), (doubt,) if largest < SMALLEST_DEGREES else ()


def _from_arrays(path: Path, system: System) -> Samples:
    if path.suffix.lower() == ".npy":
        arrays: dict[str, NDArray[Any]] = {"samples": openmm.read_array(path)}
    else:
        arrays = archives.read_arrays(path)
    few, many = sample_columns(system)
    if "samples" in arrays:
        array = arrays.pop("samples")
        if few == many and array.ndim == 2 and array.shape[1] == few:
            raise UserError(f"{path} may hold CVs or positions: write an npz with the array 'cvs' or 'positions'")
        is_cvs = array.ndim == 1 and few == 1 or array.ndim == 2 and array.shape[1] == few
        arrays["cvs" if is_cvs else "positions"] = array
    if ("cvs" in arrays) == ("positions" in arrays):
        raise UserError(f"{path} must have one of the arrays 'cvs' and 'positions'; it has {', '.join(sorted(arrays))}")
    density = _column(path, DENSITY, arrays[DENSITY]) if DENSITY in arrays else None
    if "positions" in arrays:
        x = configurations(path, arrays["positions"], system)
        log_weights, weighted = _weights_in(path, arrays, len(x))
        return _of_positions(path, x, system, "array of positions", log_weights, weighted, density)
    array = arrays["cvs"]
    of_one = array.ndim == 1 and few == 1
    s = archives.checked(path, "cvs", array[:, None] if of_one else array, ("samples", few))
    log_weights, weighted = _weights_in(path, arrays, len(s))
    s, degrees, doubts = _angles(path, s, system.cvs)
    return Samples(
        "array of CVs",
        s,
        log_weights,
        weighted,
        reference_log_density=density,
        assumed=degrees,
        warnings=doubts,
    )


def _weights_in(path: Path, arrays: dict[str, NDArray[Any]], count: int) -> tuple[Array, bool]:
    if "weights" not in arrays and "log_weights" not in arrays:
        return np.zeros(count), False
    if "log_weights" in arrays:
        found = _column(path, "log_weights", arrays["log_weights"])
    else:
        found = _logarithms(path, _column(path, "weights", arrays["weights"]))
    if len(found) != count:
        raise UserError(f"{path} has {len(found):,} weights for {count:,} samples")
    return found, True


def _column(path: Path, name: str, array: NDArray[Any]) -> Array:
    """Return an array with one number for each sample; it may have a second dimension of length 1."""
    return archives.checked(path, name, array[:, 0] if array.shape[1:] == (1,) else array, ("samples",))


def _of_positions(
    path: Path,
    x: Array,
    system: System,
    words: str,
    log_weights: Array,
    weighted: bool,
    density: Array | None = None,
) -> Samples:
    inside, notes = check_positions(path, x, system)
    rounded = path.suffix.lower() in ROUNDED
    if rounded:
        notes.append("XTC rounds positions to 0.001 nm: energies are not computed from them")
    s = collective_variables(x[inside], system)
    return Samples(words, s, log_weights[inside], weighted, None if rounded else x[inside], density, notes=tuple(notes))
