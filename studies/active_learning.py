"""Where the error of active learning is: the PMF of each stage of a stored run, basin by basin.

Writes a CSV table from ``pmf.npz`` and the reference; nothing is computed anew. Stages are the ends of the iterations
of preset ``paper`` of ``cgflow_al``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from cgbench.contracts.pmf import basin_mask
from cgbench.contracts.system import System
from cgbench.errors import UserError
from cgbench.results.runs import find_runs
from cgbench.running.registry import build_system
from cgbench.scoring.divergences import forward_kld
from cgbench.storage.files import csv_bytes, write_atomically

__all__ = ["command", "table_of"]

Array = NDArray[np.float64]
LOW = 1.0  # kT


def table_of(folder: Path) -> list[dict[str, Any]]:
    """Return one row for each stage and basin of a stored run.

    Parameters
    ----------
    folder
        Folder of the run.

    Returns
    -------
    rows
        ``evaluations`` and ``forward_kld`` of the stage; ``basin``; its ``population`` in the reference and
        ``estimate`` in the stage; ``part_of_kld``, its share of the sum over bins that is the forward KLD, in the same
        unit; ``error_below_1kT``, mean error of the free energy in kT over the bins of the basin less than 1 kT above
        its minimum, where the mean over the whole PMF, weighted by the reference, is zero; ``new_points``, how many of
        the places where walkers found the model uncertain after the stage are in the basin.

    Raises
    ------
    UserError
        If there is not one run in the folder, it is of another version of its system, or it has no stages.
    """
    runs = find_runs([folder])
    if len(runs) != 1 or runs[0].path is None:
        raise UserError(f"{folder} has {len(runs)} runs: give the folder of one")
    with np.load(runs[0].path / "pmf.npz") as stored:
        arrays = dict(stored)
    if "stage_free_energy" not in arrays:
        raise UserError(f"{folder} has no stages: give a run of active learning")
    system: System = build_system(runs[0].record.system)
    if (version := runs[0].record.system_version) != system.version:
        raise UserError(f"{folder}: a run of version {version} of {system.name}, not {system.version}")
    p = system.reference().pmf.probability
    return [
        row
        for number, evaluations in enumerate(arrays["stage_evaluations"])
        for row in _rows(
            system,
            p,
            int(evaluations),
            arrays["stage_free_energy"][number],
            arrays["stage_points"][arrays["stage_of_point"] == number],
        )
    ]


def _rows(system: System, p: Array, evaluations: int, free_energy: Array, points: Array) -> list[dict[str, Any]]:
    q = np.exp(-(free_energy - free_energy.min()).astype(np.float64))
    q /= q.sum()
    known = p > 0
    logarithm = np.zeros_like(p)
    logarithm[known] = np.log(p[known] / q[known])  # the error of the free energy
    centred = logarithm - (p * logarithm).sum()
    cell = system.cvs.bin_index(points)
    rows = []
    for basin in system.basins:
        inside = basin_mask(system.cvs, basin.contains)
        low = inside & (p > p[inside].max() * np.exp(-LOW))
        rows.append(
            {
                "evaluations": evaluations,
                "forward_kld": f"{forward_kld(p, q):.1e}",
                "basin": basin.name,
                "population": f"{p[inside].sum():.4f}",
                "estimate": f"{q[inside].sum():.4f}",
                "part_of_kld": f"{(p * logarithm)[inside].sum():+.3f}",
                "error_below_1kT": f"{centred[low].mean():+.2f}",
                "new_points": int(inside.reshape(-1)[cell].sum()),
            }
        )
    return rows


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--table", default="active_learning.csv", show_default=True, type=click.Path(dir_okay=False, path_type=Path)
)
def command(folder: Path, table: Path) -> None:
    """Write the table and print it."""
    rows = table_of(folder)
    for row in (dict(zip(rows[0], rows[0], strict=True)), *rows):
        click.echo(" ".join(f"{value!s:>15}" for value in row.values()))
    write_atomically(table, csv_bytes(list(rows[0]), rows))


if __name__ == "__main__":
    from cgbench.cli.main import guarded

    sys.exit(guarded(command, "active_learning", after_interrupt="the same command starts over"))
