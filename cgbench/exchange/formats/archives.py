"""Archives in .npz: the PMF of a run of cgbench, and free-energy surfaces of pymbar.

pymbar's ``FES.get_fes`` returns a dictionary with ``f_i`` and ``df_i`` in kT, one value for each place that was asked
for; saved with numpy, the archive also needs the places: ``x``, or ``bin_centers`` or ``centers``, ``[points, cvs]``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgbench.errors import UserError
from cgbench.exchange.formats.text import beginning
from cgbench.exchange.landscape import Axis, Hints, Landscape, from_points
from cgbench.storage.files import read_npz

__all__ = ["SAMPLES", "names_in", "read", "read_arrays"]

LARGEST = 1_500_000_000  # bytes of an archive when unpacked
SAMPLES = ("positions", "cvs")
PLACES = ("x", "bin_centers", "centers", "bins")


def _checked(path: Path) -> list[str]:
    """Return the names of the arrays, after a look at the sizes that the archive states."""
    import zipfile

    beginning(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # zipfile can raise anything on a damaged archive
        raise UserError(f"{path} is no readable npz archive: {' '.join(str(error).split())[:120]}") from error
    size = sum(entry.file_size for entry in entries)
    if size > LARGEST:
        raise UserError(f"{path} has {size / 1e9:.1f} GB when unpacked: at most {LARGEST / 1e9:.1f} GB are read")
    return [entry.filename.removesuffix(".npy") for entry in entries]


def names_in(path: Path) -> list[str]:
    """Return the names of the arrays in an archive.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    return _checked(path)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return all arrays of an archive.

    Raises
    ------
    UserError
        If it is damaged, too large, or contains Python objects.
    """
    _checked(path)
    try:
        return read_npz(path)
    except ValueError as error:
        raise UserError(str(error)) from error


def read(path: Path, hints: Hints) -> Landscape:
    """Read a PMF of cgbench or of pymbar.

    Raises
    ------
    UserError
        If it is damaged or holds neither.
    """
    arrays = read_arrays(path)
    if "probability" in arrays:
        return _of_cgbench(path, arrays)
    if "f_i" in arrays:
        return _of_pymbar(path, arrays)
    raise UserError(
        f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}: a PMF has 'probability' and 'centers_0' (cgbench) or "
        "'f_i' and 'x' (pymbar); samples have 'positions' or 'cvs'"
    )


def _of_cgbench(path: Path, arrays: dict[str, NDArray[Any]]) -> Landscape:
    try:
        values = np.asarray(arrays["probability"], dtype=np.float64)
        centers = [np.asarray(arrays[f"centers_{k}"], dtype=np.float64) for k in range(values.ndim)]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not centers or values.shape != tuple(len(c) for c in centers) or min(values.shape) < 2:
        raise UserError(f"{path} is damaged: probability {values.shape} does not match its bin centres")
    if not (np.isfinite(values).all() and (values >= 0).all() and all(np.isfinite(c).all() for c in centers)):
        raise UserError(f"{path} is damaged: some probabilities or bin centres are negative or not finite")
    names = arrays.get("names")
    labels = [str(name) for name in names] if names is not None and len(names) == values.ndim else [""] * values.ndim
    if any((np.diff(c) <= 0).any() for c in centers):
        raise UserError(f"{path} is damaged: bin centres do not increase")
    axes = tuple(Axis(c, label) for c, label in zip(centers, labels, strict=True))
    std = arrays.get("free_energy_std")
    return Landscape("npz of cgbench", axes, values, "density", "kT", error=None if std is None else np.asarray(std))


def _of_pymbar(path: Path, arrays: dict[str, NDArray[Any]]) -> Landscape:
    place = next((name for name in PLACES if name in arrays), None)
    if place is None:
        raise UserError(f"{path} has 'f_i' but not the places of its values: add 'x', [points, cvs], in the CVs' order")
    try:
        values = np.asarray(arrays["f_i"], dtype=np.float64)
        columns = np.asarray(arrays[place], dtype=np.float64)
        error = np.asarray(arrays["df_i"], dtype=np.float64) if "df_i" in arrays else None
    except (TypeError, ValueError) as problem:
        raise UserError(f"{path} is damaged: {problem}") from problem
    columns = columns.reshape(len(columns), -1) if columns.ndim else columns.reshape(1, 1)
    if values.ndim != 1 or len(columns) != len(values) or (error is not None and error.shape != values.shape):
        raise UserError(f"{path}: f_i {values.shape} and {place} {columns.shape} do not fit: one row for each value")
    if np.isnan(values).any():
        raise UserError(f"{path}: {int(np.isnan(values).sum()):,} of {len(values):,} free energies are nan")
    axes, gridded = from_points(str(path), columns, [values] if error is None else [values, error])
    return Landscape("pymbar FES", axes, gridded[0], unit="kT", error=gridded[1] if error is not None else None)
