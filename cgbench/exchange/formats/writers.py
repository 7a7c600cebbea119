"""The way back: PMFs as PLUMED grids, CSV, and npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from cgbench.contracts.pmf import PMF
from cgbench.errors import UserError, choices
from cgbench.exchange.axes import Points
from cgbench.exchange.binning import interpolate
from cgbench.exchange.landscape import energy_scale
from cgbench.exchange.names import without_spaces
from cgbench.storage.files import npz_bytes, write_atomically

__all__ = ["SUFFIXES", "csv_text", "export", "npz_content", "plumed_text", "write_plumed"]

Array = NDArray[np.float64]
SUFFIXES = {"plumed": ".dat", "csv": ".csv", "npz": ".npz"}


def export(pmf: PMF, path: Path, format: str, unit: str, temperature: float | None, nodes: bool = False) -> None:
    """Write a PMF in one of the formats of `SUFFIXES`; an npz is in kT and has probabilities.

    Raises
    ------
    UserError
        If the format is unknown, the temperature is missing, or the file cannot be written.
    """
    if format not in SUFFIXES:
        raise UserError(f"unknown format {format!r} (--format): choose from {choices(SUFFIXES)}")
    if nodes and format != "plumed":
        raise UserError("--nodes is for PLUMED grids only: csv and npz hold bins")
    if format == "plumed":
        content = plumed_text(pmf, unit, temperature, nodes).encode()
    elif format == "csv":
        content = csv_text(pmf, unit, temperature).encode()
    else:
        content = npz_content(pmf)
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; give the name of a file")
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def write_plumed(pmf: PMF, path: Path, unit: str, temperature: float | None, nodes: bool) -> None:
    """Write a PLUMED grid; see `cgbench.contracts.pmf.PMF.to_plumed`."""
    export(pmf, path, "plumed", unit, temperature, nodes)


def _column_names(pmf: PMF) -> list[str]:
    return [without_spaces(name) for name in pmf.cvs.names]


def plumed_text(pmf: PMF, unit: str, temperature: float | None, nodes: bool = False) -> str:
    """Return a PLUMED grid, with derivatives where all free energies are finite.

    Parameters
    ----------
    pmf, unit, temperature
        What to write, and the unit of energy.
    nodes
        Values at bin edges, interpolated, instead of those of the bins at their centres. PLUMED reads grids whose
        domain is that of the CV, as those of nodes are.
    """
    energy = pmf.free_energy / energy_scale(unit, temperature)
    cvs = pmf.cvs
    axes = [pmf.centers(k) for k in range(len(cvs))]
    if nodes:
        if not np.isfinite(energy).all():
            raise UserError(f"{int((~np.isfinite(energy)).sum()):,} bins are empty: nodes need a value in every bin")
        axes = [cvs.edges(k)[: -1 if cvs.periodic[k] else None] for k in range(len(cvs))]
        points = tuple(
            Points(float(cvs.centers(k)[0]), float(np.diff(cvs.edges(k))[0]), cvs.bins[k], cvs.periodic[k])
            for k in range(len(cvs))
        )
        energy = interpolate(energy, points, cvs, axes)
        energy = energy - energy.min()
    names = _column_names(pmf)
    columns = [energy]
    fields = [*names, "file.free"]
    if np.isfinite(energy).all():
        columns += [_derivative(energy, axes[k], k, cvs.periodic[k]) for k in range(len(cvs))]
        fields += [f"der_{name}" for name in names]
    lines = [f"#! FIELDS {' '.join(fields)}"]
    for k, name in enumerate(names):
        step = float(axes[k][1] - axes[k][0])
        last = axes[k][-1] + step if cvs.periodic[k] else axes[k][-1]
        lines += [
            f"#! SET min_{name} {axes[k][0]:.12g}",
            f"#! SET max_{name} {last:.12g}",
            f"#! SET nbins_{name} {len(axes[k]) - (not cvs.periodic[k])}",
            f"#! SET periodic_{name} {str(cvs.periodic[k]).lower()}",
        ]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    table = np.concatenate([places, np.stack(columns, axis=-1)], axis=-1)
    rows = table.transpose(*reversed(range(len(cvs))), len(cvs)).reshape(-1, table.shape[-1])  # first CV fastest
    for number, row in enumerate(rows):
        if number and len(cvs) > 1 and number % len(axes[0]) == 0:
            lines.append("")
        lines.append(" ".join(f"{value:17.10f}" for value in row))
    return "\n".join(lines) + "\n"


def _derivative(energy: Array, x: Array, axis: int, periodic: bool) -> Array:
    if periodic:
        step = x[1] - x[0]
        closed = np.concatenate([energy, energy.take([0], axis=axis)], axis=axis)
        spline = CubicSpline(np.append(x, x[-1] + step), closed, axis=axis, bc_type="periodic")
    else:
        spline = CubicSpline(x, energy, axis=axis)
    return np.asarray(spline(x, 1))


def csv_text(pmf: PMF, unit: str, temperature: float | None) -> str:
    """Return a CSV table whose header names the units; an empty bin has an infinite free energy."""
    scale = energy_scale(unit, temperature)
    cvs = pmf.cvs
    header = [f"{name} ({cvs.unit})" if cvs.unit else name for name in cvs.names]
    header += [f"free energy ({unit})", "probability"]
    columns = [*cvs.grid().T, pmf.free_energy.reshape(-1) / scale, pmf.probability.reshape(-1)]
    if pmf.free_energy_std is not None:
        header.append(f"free energy std ({unit})")
        columns.append(pmf.free_energy_std.reshape(-1) / scale)
    lines = [",".join(header), *(",".join(f"{value:.12g}" for value in row) for row in np.stack(columns, axis=-1))]
    return "\n".join(lines) + "\n"


def npz_content(pmf: PMF) -> bytes:
    """Return an npz archive: the arrays of ``pmf.npz``, with the names of the CVs."""
    return npz_bytes({**pmf.arrays(), "names": np.array(pmf.cvs.names)})
