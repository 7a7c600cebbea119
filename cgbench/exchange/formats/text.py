"""Reading text safely: size, encoding, lines, and tables of numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgbench.errors import UserError

__all__ = [
    "LARGEST_GRID",
    "LARGEST_SAMPLES",
    "beginning",
    "is_number",
    "name_and_unit",
    "number",
    "read_text",
    "separator",
    "table",
]

Array = NDArray[np.float64]
LARGEST_GRID = 200_000_000  # bytes of a file with a PMF
LARGEST_SAMPLES = 1_000_000_000  # bytes of a file with samples or weights
BEGINNING = 65_536  # bytes that tell the format


def file_size(path: Path) -> int:
    """Return the size of a file in bytes.

    Raises
    ------
    UserError
        If there is no such file, or it is empty.
    """
    try:
        if not path.is_file():
            raise UserError(f"no file {str(path)!r}")
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if size == 0:
        raise UserError(f"{path} is empty")
    return size


def beginning(path: Path) -> bytes:
    """Return the first 64 kB of a file.

    Raises
    ------
    UserError
        If the file cannot be read, or is empty.
    """
    file_size(path)
    try:
        with open(path, "rb") as file:
            return file.read(BEGINNING)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def read_text(path: Path, largest: int = LARGEST_GRID) -> list[str]:
    """Return the lines of a text file.

    Raises
    ------
    UserError
        If the file is missing, empty, larger than `largest` bytes or no text, or ends within a line.
    """
    size = file_size(path)
    if size > largest:
        raise UserError(f"{path} has {size / 1e6:,.0f} MB: such a file has at most {largest / 1e6:,.0f} MB")
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file (byte {error.start + 1:,} is no UTF-8)") from error
    if "\0" in text:
        raise UserError(f"{path} is not a text file (byte {text.index(chr(0)) + 1:,} is zero)")
    if not text.endswith("\n"):
        raise UserError(f"{path} ends within a line: is it truncated? If it is complete, add a line end")
    return text.splitlines()


def is_number(text: str) -> bool:
    """Whether a word is a number; nan and infinite ones are."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def separator(line: str) -> str | None:
    """Return what separates the columns of a line: a comma, a semicolon or a tab; None for spaces."""
    return next((mark for mark in (",", ";", "\t") if mark in line), None)


def name_and_unit(title: str) -> tuple[str, str]:
    """Split the title of a column such as "free energy (kJ/mol)" into a name without spaces and a unit."""
    match = re.fullmatch(r"\s*(.*?)\s*(?:[(\[/]\s*([^)\]]*?)\s*[)\]]?)?\s*", title)
    words, unit = (match[1], match[2] or "") if match is not None else (title, "")
    return re.sub(r"[\s-]+", "_", words.strip()), unit


def number(path: Path, text: str, what: str) -> float:
    """Return a number in a header; PLUMED writes pi and -pi as words.

    Raises
    ------
    UserError
        If it is no finite number.
    """
    sign = -1.0 if text.startswith("-") else 1.0
    word = text.lstrip("+-")
    try:
        value = sign * (np.pi if word == "pi" else float(word))
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise UserError(f"{path}: {what} is {text[:30]!r}, not a number")
    return float(value)


def table(path: Path, lines: Sequence[str], columns: int, numbers: Sequence[int] | None = None) -> Array:
    """Return the numbers of a table ``[rows, columns]``; empty lines separate blocks and are skipped.

    Parameters
    ----------
    path
        The file, for messages.
    lines
        Its lines without headers.
    columns
        Number of columns that every row must have.
    numbers
        Line number of each of `lines`, for messages; by default from 1.

    Raises
    ------
    UserError
        If there is no row, or a row has another number of columns or something else than numbers.
    """
    kept = [(k, line) for k, line in enumerate(lines) if line and not line.isspace()]
    if not kept:
        raise UserError(f"{path} holds no data")
    try:
        found = np.loadtxt(io.StringIO("\n".join(line for _, line in kept)), comments=None, ndmin=2)
    except ValueError:
        found = np.empty((0, 0))
    if found.shape == (len(kept), columns):
        return np.asarray(found, dtype=np.float64)
    for k, line in kept:
        words = line.split()
        place = f"line {numbers[k] if numbers is not None else k + 1}"
        if len(words) != columns:
            raise UserError(f"{path}: {place} has {len(words)} columns, not {columns}: {line.strip()[:40]!r}")
        for word in words:
            if not is_number(word):
                raise UserError(f"{path}: {place} has {word[:30]!r} where a number should be")
    raise UserError(f"{path}: the table cannot be read")
