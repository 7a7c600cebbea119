"""Colvars: multicolumn files of metadynamics, histograms, ABF and TI.

The header is ``# Ncv``, then ``# lower width points periodic`` for each CV; the last CV varies fastest. Values of
metadynamics and histograms are at the midpoints of the bins. ABF and TI integrate mean forces: their ``.pmf`` is at the
edges of these bins, half a bin off, with one more point unless the CV is periodic. The coordinates in the rows say
which, so they are used, and the header is compared with them. The unit of energy is that of the program that Colvars
ran in, and the file does not name it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cgbench.errors import UserError
from cgbench.exchange.formats.text import number, read_text, table
from cgbench.exchange.landscape import Axis, Hints, Landscape, from_points

__all__ = ["read"]


def read(path: Path, hints: Hints) -> Landscape:
    """Read a multicolumn file with one value at each point.

    Raises
    ------
    UserError
        If it is damaged, holds gradients, or the unit is not given.
    """
    lines = read_text(path)
    headers = [(k, line[1:].split()) for k, line in enumerate(lines) if line.startswith("#")]
    count = int(number(path, (headers[0][1] or ["?"])[0], "the number of CVs in line 1")) if headers else 0
    rows = [words for _, words in headers[1 : count + 1]]
    if count < 1 or len(rows) < count or any(len(words) != 4 for words in rows):
        raise UserError(f"{path} is no Colvars multicolumn file: '# Ncv' and, for each CV, '# lower width points 0|1'")
    kept = [(k + 1, line) for k, line in enumerate(lines) if not line.startswith("#")]
    first = next((line for _, line in kept if line.strip()), "")
    if path.suffix == ".grad" or (len(first.split()) == 2 * count and count > 1):
        raise UserError(f"{path} holds gradients: give the .pmf file")
    data = table(path, [line for _, line in kept], count + 1, [k for k, _ in kept])
    axes, (values,) = from_points(str(path), data[:, :count], [data[:, count]])
    if hints.unit is None:
        raise UserError(
            f"{path}: Colvars does not write the unit of energy: give --unit kcal/mol (NAMD, VMD, LAMMPS with real "
            "units), --unit kJ/mol (GROMACS) or --unit kT (a model without units)"
        )
    read_axes, notes = [], []
    for k, (axis, words) in enumerate(zip(axes, rows, strict=True)):
        one, note = _checked(path, k, axis, words)
        read_axes.append(one)
        notes += note
    return Landscape("Colvars multicolumn file", tuple(read_axes), values, notes=tuple(notes))


def _checked(path: Path, k: int, axis: Axis, words: list[str]) -> tuple[Axis, list[str]]:
    lower, width, points = (number(path, word, f"the header of CV {k + 1}") for word in words[:3])
    if len(axis.coordinates) != points:
        found = len(axis.coordinates)
        raise UserError(f"{path}: {found} points along CV {k + 1}, but its header says {points:.0f}: is it truncated?")
    if abs(axis.spacing - width) > 0.01 * width:
        raise UserError(f"{path}: CV {k + 1} has steps of {axis.spacing:.6g}, but its header says {width:.6g}")
    offset = (axis.coordinates[0] - lower) / width
    notes = []
    if abs(offset) < 0.1:
        notes.append(
            f"CV {k + 1}: values at the lower edges of the header's bins; the coordinates of the rows are used"
        )
    elif abs(offset - 0.5) > 0.1:
        first = axis.coordinates[0]
        raise UserError(f"{path}: CV {k + 1} begins at {first:.6g}, which is neither edge nor middle of its first bin")
    return replace(axis, periodic=words[3] == "1"), notes
