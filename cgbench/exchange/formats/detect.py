"""Telling the format of a file from its name and its first bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from cgbench.contracts.cvs import CollectiveVariables
from cgbench.errors import UserError, choices
from cgbench.exchange.formats import archives, columns, colvars, csv_table, gromacs, openmm, plumed, wham
from cgbench.exchange.formats.text import BEGINNING, beginning
from cgbench.exchange.landscape import Hints, Landscape

__all__ = ["PMF_FORMATS", "SAMPLE_FORMATS", "TRAJECTORIES", "detect", "read_landscape"]

TRAJECTORIES = (".dcd", ".xtc", ".trr", ".h5", ".hdf5", ".nc", ".netcdf", ".ncdf")
READERS: dict[str, Callable[[Path, Hints], Landscape]] = {
    "plumed": plumed.read_grid,
    "plumed-fes": partial(plumed.read_grid, density=False),
    "plumed-histogram": partial(plumed.read_grid, density=True),
    "colvars": colvars.read,
    "wham": wham.read_1d,
    "wham-2d": wham.read_2d,
    "gmx-wham": gromacs.read_wham,
    "gmx-sham": gromacs.read_sham,
    "xpm": gromacs.refuse_picture,
    "npz": archives.read,
    "csv": csv_table.read,
}
PMF_FORMATS = (*(name for name in READERS if name != "xpm"), "openmm", "openmm-bias")
SAMPLE_FORMATS = ("colvar", "trajectory", "samples")
FEWEST, LONGEST = 10, 50  # points along each CV of a grid, and the largest ratio of their numbers


def read_landscape(paths: Sequence[Path], format: str, hints: Hints, cvs: CollectiveVariables | None) -> Landscape:
    """Read a file with a PMF, or the biases of several walkers.

    Raises
    ------
    UserError
        If a file is damaged or of another format.
    """
    if format == "openmm-bias":
        return openmm.read_bias(paths, hints, cvs)
    (path,) = paths
    if format == "openmm":
        return openmm.read(path, hints, cvs)
    if format not in READERS:
        raise UserError(f"unknown format {format!r} (--format): choose from {choices(PMF_FORMATS)}")
    return READERS[format](path, hints)


def detect(path: Path, widths: Sequence[int] = ()) -> str:
    """Return the format of a file: one of `PMF_FORMATS` or `SAMPLE_FORMATS`, or "xpm".

    Parameters
    ----------
    path
        The file.
    widths
        Numbers of columns that samples may have, of CVs first; other arrays that can be a grid are PMFs.

    Raises
    ------
    UserError
        If the file cannot be read, or its format is unknown or ambiguous.
    """
    content = beginning(path)
    suffix = path.suffix.lower()
    if suffix in TRAJECTORIES:
        return "trajectory"
    if content.startswith(b"PK"):
        return "samples" if set(archives.names_in(path)) & set(archives.SAMPLES) else "npz"
    if content.startswith(b"\x93NUMPY"):
        return _array(path, widths)
    if content.startswith(b"/* XPM"):
        return "xpm"
    found = _text(path, content, widths)
    if found is None:
        raise UserError(
            f"{path} is of no format that is known here: choose one of {choices((*PMF_FORMATS, *SAMPLE_FORMATS))} with "
            "--format"
        )
    return found


def _array(path: Path, widths: Sequence[int]) -> str:
    if path.name.startswith("bias_"):
        raise UserError(
            f"{path} looks like the raw bias of one walker of OpenMM: save getFreeEnergy() instead, or give the files "
            "of all walkers with --format openmm-bias --bias-factor G"
        )
    shape = openmm.read_array(path).shape
    if len(shape) == 2 and shape[0] == shape[1] and shape[1] in widths:
        raise UserError(f"{path} may be a PMF or samples: give --format openmm or --format samples")
    if len(shape) == 3 and shape[2] == 3 or len(shape) == 2 and shape[1] in widths and shape[0] > 1:
        return "samples"
    if len(shape) > 1 and widths and not FEWEST <= min(shape) <= max(shape) <= LONGEST * min(shape):
        return "samples"  # it cannot be a grid: with a column more, such as the time, or transposed
    if len(shape) == 1 and 1 in widths:
        raise UserError(f"{path} may be a PMF or samples of the CV: give --format openmm or --format samples")
    return "openmm"


def _text(path: Path, content: bytes, widths: Sequence[int]) -> str | None:
    """Return the format of a text file, or None."""
    if b"\0" in content:
        raise UserError(f"{path} is a binary file of no format that is known here")
    text = content.decode("utf-8", errors="replace")
    if len(content) == BEGINNING and "\n" not in text:
        raise UserError(f"{path} has no line end in its first {BEGINNING // 1024} kB: no format has such long lines")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{path} holds no data")
    first = lines[0]
    if any(line.startswith("#! FIELDS") for line in lines):
        return "plumed" if re.search(r"^#! SET nbins_", text, re.MULTILINE) else "colvar"
    if first.startswith("#Coor"):
        return "wham"
    if re.match(r"#\s*X\s+Y\s+Free", first):
        return "wham-2d"
    if re.fullmatch(r"#\s*\d+", first):
        return "colvars"
    if path.suffix.lower() == ".xvg" or any(line.startswith("@") for line in lines):
        data = next((line for line in lines if not line.startswith(("#", "@"))), "")
        return "gmx-sham" if len(data.split()) == 4 else "gmx-wham"
    table = columns.heading(lines)
    if table is not None and len(table.names) in widths[:1] and _may_be_samples(table.names):
        return "samples"
    if path.suffix.lower() in (".csv", ".tsv") or any(mark in first for mark in ",;"):
        return "csv"
    if table is not None:
        raise UserError(
            f"{path} has {len(table.names)} columns of numbers: if its rows are samples, give --format samples, and "
            "--axes unless the columns have the names of the CVs"
        )
    return None


def _may_be_samples(names: Sequence[str]) -> bool:
    """Whether columns, as many as CVs, are samples: three without names may also be a PMF on two of the CVs."""
    return csv_table.value_column(names) is None if any(names) else len(names) < 3
