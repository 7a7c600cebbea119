"""Grossfield's WHAM: free energies at bin centres, in kcal/mol unless compiled otherwise.

In one dimension the columns are coordinate, free energy, error, probability, error, and lines on the windows follow.
In two they are x, y, free energy, probability (older versions: errors after each), and y varies fastest. Unvisited
bins are infinite, masked bins 9999999. Periodic padding repeats bins outside the range.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cgbench.errors import UserError
from cgbench.exchange.formats.text import read_text, table
from cgbench.exchange.landscape import Hints, Landscape, from_points

__all__ = ["read_1d", "read_2d"]

MASKED = 9.999e6
UNIT = "kcal/mol"


def read_1d(path: Path, hints: Hints) -> Landscape:
    """Read the output of ``wham``.

    Raises
    ------
    UserError
        If it is damaged, or its lines on the windows are missing, with which the program ends.
    """
    lines = read_text(path)
    last = next((k for k, line in enumerate(lines) if line.startswith("#Window")), None)
    if last is None:
        raise UserError(f"{path} lacks the lines '#Window ...' at the end: is it truncated?")
    rows = [(k + 1, line) for k, line in enumerate(lines[:last]) if not line.startswith("#")]
    data = table(path, [line for _, line in rows], 5, [k for k, _ in rows])
    axes, (values, error, probability) = from_points(str(path), data[:, :1], [data[:, 1], data[:, 2], data[:, 3]])
    values = np.where((values >= MASKED) | (probability == 0) & (values == 0), np.inf, values)
    usable = bool(np.isfinite(error[np.isfinite(values)]).all() and (error > 0).any())
    return Landscape("WHAM, 1-D (Grossfield)", axes, values, error=error if usable else None, usual_unit=UNIT)


def read_2d(path: Path, hints: Hints) -> Landscape:
    """Read the output of ``wham-2d``.

    Raises
    ------
    UserError
        If it is damaged.
    """
    lines = read_text(path)
    rows = [(k + 1, line) for k, line in enumerate(lines) if not line.startswith("#")]
    first = next((line for _, line in rows if line.strip()), "")
    columns = len(first.split())
    if columns not in (4, 6):
        raise UserError(f"{path}: the first row has {columns} columns; wham-2d writes x, y, free energy, probability")
    data = table(path, [line for _, line in rows], columns, [k for k, _ in rows])
    axes, (values,) = from_points(str(path), data[:, :2], [data[:, 2]])
    values = np.where(values >= MASKED, np.inf, values)
    return Landscape("WHAM, 2-D (Grossfield)", axes, values, usual_unit=UNIT)
