"""Archives in .npz: the PMF of a run of cgbench, and free-energy surfaces of pymbar.

pymbar's ``FES.get_fes`` returns a dictionary with ``f_i`` and ``df_i`` in kT, one value for each place that was asked
for; saved with numpy, the archive also needs the places: ``x``, or ``bin_centers`` or ``centers``, ``[points, cvs]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cgbench.errors import UserError
from cgbench.exchange.formats.text import beginning
from cgbench.exchange.landscape import Axis, Hints, Landscape, from_points
from cgbench.storage.files import read_npz

__all__ = [
    "SAMPLES",
    "WEIGHTS",
    "checked",
    "column",
    "log_weights_in",
    "logarithms",
    "names_in",
    "read",
    "read_arrays",
]

Array = NDArray[np.float64]
LARGEST = 1_500_000_000  # bytes of an archive when unpacked
SAMPLES = ("positions", "cvs")
WEIGHTS = ("weights", "log_weights")
PLACES = ("x", "bin_centers", "centers", "bins")
KINDS = {"real numbers": "biuf", "text": "U"}  # of types in NumPy's letters


def _entries(path: Path) -> list[str]:
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
    return _entries(path)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return all arrays of an archive.

    Raises
    ------
    UserError
        If it is damaged, too large, or contains Python objects.
    """
    _entries(path)
    try:
        return read_npz(path)
    except ValueError as error:
        raise UserError(str(error)) from error


def checked(
    path: Path,
    name: str,
    array: NDArray[Any],
    shape: Sequence[int | str],
    kind: Literal["real numbers", "text"] = "real numbers",
) -> NDArray[Any]:
    """Return an array of a file, real numbers as float64, if its type and shape are right.

    Parameters
    ----------
    path, name, array
        The file, and the name and content of the array.
    shape
        The length along each dimension; a word for what is counted there if any length but zero is right.
    kind
        What it must hold.

    Raises
    ------
    UserError
        If it holds something else, or has another shape.
    """
    if array.dtype.kind not in KINDS[kind]:
        found = "text" if array.dtype.kind in "US" else f"values of type {array.dtype}"
        raise UserError(f"{path}: array {name!r} holds {found}, not {kind}")
    pairs = zip(array.shape, shape, strict=False)
    if array.ndim != len(shape) or not all(n > 0 if isinstance(right, str) else n == right for n, right in pairs):
        words = f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
        raise UserError(f"{path}: array {name!r} has shape {array.shape}, not {words}")
    return array if kind == "text" else np.asarray(array, dtype=np.float64)


def column(path: Path, name: str, array: NDArray[Any]) -> Array:
    """Return an array with one number for each sample, as `checked` does; a second dimension may have length 1."""
    return checked(path, name, array[:, 0] if array.shape[1:] == (1,) else array, ("samples",))


def log_weights_in(path: Path, arrays: dict[str, NDArray[Any]]) -> Array | None:
    """Return the logarithms of the weights in an archive, or None.

    Raises
    ------
    UserError
        If they are not usable, or there are both weights and their logarithms.
    """
    weights, log_weights = (column(path, name, arrays[name]) if name in arrays else None for name in WEIGHTS)
    if weights is None:
        return log_weights
    if log_weights is not None:
        raise UserError(f"{path} has both {' and '.join(WEIGHTS)}: keep one of the two arrays")
    return logarithms(path, weights)


def logarithms(path: Path, weights: Array) -> Array:
    """Return the logarithms of weights.

    Raises
    ------
    UserError
        If one is negative or not finite, or all are zero.
    """
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise UserError(f"{path}: weights must be finite, not negative, and not all zero")
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(weights))


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
    shape = arrays["probability"].shape
    values: Array = checked(path, "probability", arrays["probability"], shape)
    if not shape or min(shape) < 2:
        raise UserError(f"{path}: array 'probability' has shape {shape}, a PMF has at least 2 bins along each CV")
    missing = [name for k in range(len(shape)) if (name := f"centers_{k}") not in arrays]
    if missing:
        raise UserError(f"{path} is damaged: it has no array {missing[0]!r}")
    centers = [checked(path, f"centers_{k}", arrays[f"centers_{k}"], (bins,)) for k, bins in enumerate(shape)]
    labels = [""] * len(shape)
    if "names" in arrays:
        labels = [str(name) for name in checked(path, "names", arrays["names"], (len(shape),), "text")]
    if not all(np.isfinite(c).all() and (np.diff(c) > 0).all() for c in centers):
        raise UserError(f"{path} is damaged: bin centres are not finite, or do not increase")
    axes = tuple(Axis(c, label) for c, label in zip(centers, labels, strict=True))
    std = arrays.get("free_energy_std")
    error = None if std is None else checked(path, "free_energy_std", std, shape)
    return Landscape("npz of cgbench", axes, values, "density", "kT", error=error)


def _of_pymbar(path: Path, arrays: dict[str, NDArray[Any]]) -> Landscape:
    place = next((name for name in PLACES if name in arrays), None)
    if place is None:
        raise UserError(f"{path} has 'f_i' but not the places of its values: add 'x', [points, cvs], in the CVs' order")
    values: Array = checked(path, "f_i", arrays["f_i"], ("points",))
    count = len(values)
    error = checked(path, "df_i", arrays["df_i"], (count,)) if "df_i" in arrays else None
    columns = checked(path, place, arrays[place], (count,) if arrays[place].ndim == 1 else (count, "CVs"))
    columns = columns.reshape(count, -1)
    axes, gridded = from_points(str(path), columns, [values] if error is None else [values, error])
    return Landscape("pymbar FES", axes, gridded[0], unit="kT", error=gridded[1] if error is not None else None)
