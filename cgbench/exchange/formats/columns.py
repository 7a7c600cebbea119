"""Samples as text: one row of numbers for each sample, separated by spaces, commas, semicolons or tabs.

The line above the numbers may name the columns, also as a comment, with units in parentheses: ``# phi psi``, or
``phi (deg),psi (deg)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgbench.errors import UserError
from cgbench.exchange.formats.text import LARGEST_SAMPLES, is_number, name_and_unit, read_text, separator, table

__all__ = ["Columns", "Heading", "heading", "read_columns"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Heading:
    """What the first lines say: name and unit of each column ("" if there is none), the separator, the first row."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    mark: str | None
    first: int


@dataclass(frozen=True)
class Columns:
    """A table of numbers ``[rows, columns]``, with name and unit of each column; "" if it has none."""

    data: Array
    names: tuple[str, ...]
    units: tuple[str, ...]


def heading(lines: Sequence[str]) -> Heading | None:
    """Return what the first lines of a table say; None if they are more than one line of words, or have no row."""
    above = ""
    for k, line in enumerate(lines):
        mark = separator(line)
        words = line.split(mark)
        if words and all(map(is_number, words)):
            titles = [title.strip().strip('"') for title in above.lstrip("#").strip().split(mark)]
            if len(titles) != len(words) or any(map(is_number, titles)):
                titles = [""] * len(words)
            names, units = zip(*map(name_and_unit, titles), strict=True)
            return Heading(names, units, mark, k)
        if line.strip():
            if above and not above.startswith("#"):
                return None
            above = line
    return None


def read_columns(path: Path) -> Columns:
    """Read a table of numbers.

    Raises
    ------
    UserError
        If it is none, or damaged.
    """
    lines = read_text(path, LARGEST_SAMPLES)
    found = heading(lines)
    if found is None:
        raise UserError(
            f"{path} holds no samples that can be read: save them as .npy of shape (frames, CVs), or as rows of numbers"
            " below one line with the names of the columns"
        )
    rows = [(k + 1, line) for k, line in enumerate(lines) if k >= found.first and not line.startswith("#")]
    texts = [line if found.mark is None else line.replace(found.mark, " ") for _, line in rows]
    return Columns(table(path, texts, len(found.names), [k for k, _ in rows]), found.names, found.units)
