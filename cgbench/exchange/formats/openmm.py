"""OpenMM: arrays of metadynamics in .npy files.

``Metadynamics.getFreeEnergy()`` is in kJ/mol, with the *last* CV on axis 0, and both end points of every CV. The files
``bias_*.npy`` hold the bias of one walker each: the free energy is their sum times ``-g/(g - 1)``, g the bias factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.errors import UserError
from cgbench.exchange.formats.text import beginning
from cgbench.exchange.landscape import Axis, Hints, Landscape

__all__ = ["read", "read_array", "read_bias"]

Array = NDArray[np.float64]
LARGEST = 1_500_000_000  # bytes of an array
LONGEST_HEADER = 10_000  # bytes of the header of a .npy file


def read_array(path: Path) -> Array:
    """Return the array of a .npy file in float64, without running any code that it may contain.

    Raises
    ------
    UserError
        If the file is missing, damaged, too large, or holds something else than real numbers.
    """
    content = beginning(path)
    try:
        if int.from_bytes(content[8:12], "little") > LONGEST_HEADER and content[6:7] > b"\x01":
            raise ValueError("its header is too long")
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # a wrong size in the header allocates nothing
        if not isinstance(array, np.ndarray):
            raise ValueError("it is an archive, not one array")
        if array.nbytes > LARGEST:
            raise ValueError(f"it has {array.nbytes / 1e9:.1f} GB")
        if array.dtype.kind not in "fiu":
            raise ValueError(f"its type is {array.dtype}")
        return np.array(array, dtype=np.float64)
    except Exception as error:  # numpy can raise anything on a damaged file
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path} is no readable array of numbers: {reason}") from error


def read(path: Path, hints: Hints, cvs: CollectiveVariables | None) -> Landscape:
    """Read what ``getFreeEnergy()`` returned, saved by numpy.

    Parameters
    ----------
    path, hints
        The file, and what the user says about it; ``hints.ranges`` are in the order of the CVs.
    cvs
        CVs whose domain is used without ranges.

    Raises
    ------
    UserError
        If it is damaged or has another number of dimensions, or its ranges are unknown.
    """
    return _landscape(path, read_array(path), hints, cvs, "OpenMM Metadynamics.getFreeEnergy()")


def read_bias(paths: Sequence[Path], hints: Hints, cvs: CollectiveVariables | None) -> Landscape:
    """Read the biases of all walkers and convert their sum to a free energy.

    Raises
    ------
    UserError
        If a file is damaged, shapes differ, or the bias factor is not given.
    """
    if hints.bias_factor is None or hints.bias_factor <= 1:
        raise UserError(f"{paths[0]}: a raw bias needs the bias factor, larger than 1: give --bias-factor")
    arrays = [read_array(path) for path in paths]
    if len({array.shape for array in arrays}) > 1:
        raise UserError(f"biases of different shapes: {', '.join(str(array.shape) for array in arrays)}")
    factor = -hints.bias_factor / (hints.bias_factor - 1.0)
    words = f"OpenMM metadynamics, bias of {len(paths)} walker{'s' * (len(paths) > 1)}"
    return _landscape(paths[0], factor * np.sum(arrays, axis=0), hints, cvs, words)


def _landscape(path: Path, array: Array, hints: Hints, cvs: CollectiveVariables | None, words: str) -> Landscape:
    if not np.isfinite(array).all():
        raise UserError(f"{path}: {int((~np.isfinite(array)).sum()):,} of {array.size:,} values are not finite")
    values = array.transpose()
    ranges = hints.ranges
    assumed = []
    names: tuple[str, ...] = ("",) * values.ndim
    if not ranges:
        if cvs is None or len(cvs) != values.ndim:
            raise UserError(f"{path}: an array of {values.ndim} dimensions has no axes: give --range for each CV")
        ranges = tuple(zip(cvs.lower, cvs.upper, values.shape, strict=True))
        names = cvs.names
        assumed = ["axes from the lower to the upper end of each CV of the system, the last CV on axis 0"]
    if min(values.shape, default=0) < 2:
        raise UserError(f"{path}: an array of shape {array.shape} is no grid: it needs at least 2 points along each CV")
    if (stated := tuple(count for _, _, count in ranges)) != values.shape:
        raise UserError(
            f"{path}: the array has {_times(values.shape)} points in the order of the CVs, but BINS of --range are "
            f"{_times(stated)}"
        )
    axes = tuple(Axis(np.linspace(*one), name) for one, name in zip(ranges, names, strict=True))
    return Landscape(words, axes, np.ascontiguousarray(values), usual_unit="kJ/mol", assumed=tuple(assumed))


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
