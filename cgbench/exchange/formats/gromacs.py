"""GROMACS: profiles of ``gmx wham`` and free energies of ``gmx sham``.

``gmx wham`` writes bin centres, with the unit in the label of the y axis; its first bin is zero, not its minimum, and
empty bins stay finite. With ``-nolog`` it writes a density. ``gmx sham -dist`` writes one line for each bin that is
not empty: the flat index (last CV fastest), the free energy in kJ/mol, energy and entropy; it writes no axes.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from cgbench.errors import UserError
from cgbench.exchange.formats.text import read_text, table
from cgbench.exchange.landscape import Axis, Hints, Landscape, from_points

__all__ = ["read_sham", "read_wham", "refuse_picture"]

SHAM_TEMPERATURE = 298.15  # K, unless -tsham
WHAM_TEMPERATURE = 298.0  # K, unless -temp
LABELS = {"kcal": "kcal/mol", "kj": "kJ/mol", r"k(\\s)?_?b?(\\n)?_?t": "kT"}  # in labels of axes, with Grace's codes


def refuse_picture(path: Path, hints: Hints) -> Landscape:
    """Refuse an .xpm file: its energies are rounded to a few colours.

    Raises
    ------
    UserError
        Always.
    """
    raise UserError(f"{path} is a picture with rounded energies: give the file of 'gmx sham -dist ener.xvg'")


def read_wham(path: Path, hints: Hints) -> Landscape:
    """Read ``profile.xvg`` of ``gmx wham``.

    Raises
    ------
    UserError
        If it is damaged, or has more than one profile.
    """
    lines = read_text(path)
    label, title = _label(lines, "yaxis"), _label(lines, "title")
    rows = [(k + 1, line) for k, line in enumerate(lines) if not line.startswith(("#", "@", "&"))]
    data = table(path, [line for _, line in rows], 2, [k for k, _ in rows])
    if not np.isfinite(data).all():
        raise UserError(f"{path}: {int((~np.isfinite(data)).any(axis=1).sum()):,} rows have a value that is not finite")
    axes, (values,) = from_points(str(path), data[:, :1], [data[:, 1]])
    notes: list[str] = []
    if "density" in f"{label} {title}".lower():
        return Landscape("gmx wham -nolog", axes, values, "density")
    unit = next((unit for pattern, unit in LABELS.items() if re.search(pattern, label, re.IGNORECASE)), None)
    if unit is None and hints.unit is None:
        raise UserError(f"{path}: the label of the y axis, {label!r}, names no unit of energy: give --unit")
    notes.append("gmx wham gives empty bins a finite value: bins that were never visited cannot be told apart")
    return Landscape(
        "gmx wham profile", axes, values, unit=unit, notes=tuple(notes), usual_temperature=WHAM_TEMPERATURE
    )


def _label(lines: list[str], word: str) -> str:
    for line in lines:
        if line.startswith("@") and word in line:
            found = re.search(r'"(.*)"', line)
            if found is not None:
                return found[1]
    return ""


def read_sham(path: Path, hints: Hints) -> Landscape:
    """Read the file of ``gmx sham -dist``.

    Raises
    ------
    UserError
        If it is damaged, or the ranges of its axes are not given.
    """
    lines = [line for line in read_text(path) if not line.startswith(("#", "@"))]
    data = table(path, lines, 4)
    if not hints.ranges:
        raise UserError(
            f"{path}: gmx sham writes no axes: give --range LOWER:UPPER:BINS for each CV (-xmin, -xmax and -ngrid of "
            "gmx sham)"
        )
    shape = tuple(bins for _, _, bins in hints.ranges)
    index = np.nan_to_num(data[:, 0], nan=-1.0, posinf=-1.0, neginf=-1.0).astype(np.int64)
    if (index != data[:, 0]).any() or (np.diff(index) <= 0).any() or not np.isfinite(data[:, 1]).all():
        raise UserError(f"{path}: the first column must be increasing bin numbers and the second finite free energies")
    if index[0] < 0 or index[-1] >= np.prod(shape):
        raise UserError(f"{path}: bin {index[-1]:,} is not on a grid of {' x '.join(map(str, shape))} bins (--range)")
    values = np.full(int(np.prod(shape)), np.inf)
    values[index] = data[:, 1]
    axes = []
    for lower, upper, bins in hints.ranges:
        axes.append(Axis(np.asarray(lower + (upper - lower) / bins * (np.arange(bins) + 0.5), dtype=np.float64)))
    return Landscape(
        "gmx sham -dist",
        tuple(axes),
        values.reshape(shape),
        usual_unit="kJ/mol",
        usual_temperature=SHAM_TEMPERATURE,
        assumed=("axes as given by --range, in the order of gmx sham's columns",),
    )
