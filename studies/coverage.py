"""Coverage: how many bins of the PMFs of stored runs are within the 95 % intervals that the methods claim.

Writes a CSV table from ``pmf.npz`` and the references; nothing is computed anew. Runs are pooled by system, method and
preset. Methods that claim no error have no row. The last row of a method, "reliable", leaves out runs that call
themselves not reliable.

Errors of neighbouring bins are correlated: the coverage of one run scatters much more than that of independent bins.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from cgbench.errors import UserError
from cgbench.results.rescore import stored_estimate
from cgbench.results.runs import find_runs
from cgbench.running.registry import build_system
from cgbench.scoring.referee import Referee, errors_and_claims
from cgbench.storage.files import csv_bytes, write_atomically

__all__ = ["command", "row_of", "table_of"]

Array = NDArray[np.float64]
PAPER = "paper"  # the preset of a publication
BELOW = 8.0  # kT
BANDS = (0.0, 2.0, 4.0, 6.0, 8.0)  # kT; ends of the intervals of height
NORMAL = 1.96  # half-width of the interval in standard errors


def row_of(runs: Sequence[tuple[Array, Array, Array]]) -> dict[str, Any]:
    """Return the coverage of some PMFs together.

    Parameters
    ----------
    runs
        Height, error and claimed standard error of the bins of each run; see
        `cgbench.scoring.referee.errors_and_claims`.

    Returns
    -------
    row
        ``pmfs``, their number (a run has one for each map). ``coverage``, fraction of bins below 8 kT within 1.96
        claimed standard errors, and the ``lowest`` and ``highest`` of single PMFs. ``from_A``, the same for bins from
        A to A + 2 kT. ``ratio``, root mean square error over root mean square claim. ``mean``, the mean of the error
        over the claim: a bias if it is far from zero in all runs.
    """
    height, error, claim = (np.concatenate(column) for column in zip(*runs, strict=True))
    z = error / claim
    single = [float(np.mean(np.abs(e / s) < NORMAL)) for _, e, s in runs]
    row = {"pmfs": len(runs), "coverage": float(np.mean(np.abs(z) < NORMAL))}
    row |= {"lowest": min(single), "highest": max(single)}
    for low, high in zip(BANDS, BANDS[1:], strict=False):
        inside = (height >= low) & (height < high)
        row[f"from_{low:.0f}"] = float(np.mean(np.abs(z[inside]) < NORMAL)) if inside.any() else float("nan")
    return row | {"ratio": float(np.sqrt(np.mean(error**2) / np.mean(claim**2))), "mean": float(z.mean())}


def table_of(folders: Sequence[Path], on_skip: Callable[[str], None] = lambda words: None) -> list[dict[str, Any]]:
    """Return one row for each system, method and preset with claimed errors, and one or two for each method in all.

    The second is without the runs that call themselves not reliable, if there are some. Preset `paper` is left out of
    both, because it may be another algorithm with other errors.

    Parameters
    ----------
    folders
        Folders of runs, searched at any depth.
    on_skip
        Called for every run of another version of its system than the installed one, which is left out, with a line.
    """
    groups: dict[tuple[str, str, str], list[tuple[Array, Array, Array]]] = {}
    reliable: dict[str, list[tuple[Array, Array, Array]]] = {}
    referees: dict[str, Referee] = {}
    for run in find_runs(folders):
        assert run.path is not None
        name = run.record.system
        referee = referees[name] = referees.get(name) or Referee(build_system(name))
        if (version := run.record.system_version) != referee.system.version:
            on_skip(f"{run.path}: of version {version} of {name}, not {referee.system.version}")
            continue
        if referee.reference is None:
            raise UserError(f"{name}: {referee.problem}")
        for true, pmf in zip(
            referee.reference.maps, stored_estimate(run.path / "pmf.npz", referee.system).pmfs, strict=True
        ):
            if pmf.free_energy_std is not None:
                found = errors_and_claims(true, pmf, BELOW)
                groups.setdefault((name, run.record.method, run.record.preset), []).append(found)
                if run.record.diagnostics.get("reliable") is not False and run.record.preset != PAPER:
                    reliable.setdefault(run.record.method, []).append(found)
    rows = [
        dict(zip(("system", "method", "preset"), key, strict=True)) | row_of(runs)
        for key, runs in sorted(groups.items())
    ]
    for method in sorted({method for _, method, preset in groups if preset != PAPER}):
        together = [run for key, runs in groups.items() if key[1] == method and key[2] != PAPER for run in runs]
        rows.append({"system": "all", "method": method, "preset": "all"} | row_of(together))
        if 0 < len(reliable.get(method, [])) < len(together):
            rows.append({"system": "all", "method": method, "preset": "reliable"} | row_of(reliable[method]))
    return rows


@click.command(help=__doc__)
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--table", default="coverage.csv", show_default=True, type=click.Path(dir_okay=False, path_type=Path))
def command(folders: tuple[Path, ...], table: Path) -> None:
    """Write the table."""
    rows = table_of(folders, on_skip=lambda words: click.echo(f"left out: {words}", err=True))
    if not rows:
        raise UserError(f"no run below {', '.join(map(str, folders))} claims an error of its PMF")
    text = [{name: f"{v:.2f}" if isinstance(v, float) else str(v) for name, v in row.items()} for row in rows]
    for row in [dict.fromkeys(text[0], ""), *text]:
        names = row if any(row.values()) else {name: name for name in row}
        click.echo(" ".join(f"{names[name]:>{max(8, *(len(one[name]) for one in text))}}" for name in text[0]))
    table.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(table, csv_bytes(list(text[0]), iter(text)))


if __name__ == "__main__":
    from cgbench.cli.main import guarded

    sys.exit(guarded(command, "coverage", after_interrupt="the same command starts over"))
