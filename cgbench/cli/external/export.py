"""``cgbench export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cgbench.contracts.system import System
    from cgbench.running.record import Record

__all__ = ["command"]


@click.command("export")
@click.argument("run")
@click.option(
    "--format", "form", type=click.Choice(["plumed", "csv", "npz"]), default="plumed", show_default=True, help="Format."
)
@click.option("--out", metavar="FILE", help="File to write.  [default: pmf.dat, pmf.csv or pmf-export.npz in RUN]")
@click.option(
    "--unit",
    type=click.Choice(["kJ/mol", "kcal/mol", "kT"]),
    help="Unit of energy.  [default: kJ/mol for molecules, else kT]",
)
@click.option("--map", "name", metavar="NAME", help='Map to write, such as "phi and psi", if the run has several.')
@click.option("--nodes", is_flag=True, help="PLUMED: values at bin edges, interpolated, instead of bin centres.")
@click.option(
    "--system",
    "given",
    metavar="NAME",
    help="System of the run, if it is not registered: path/to/file.py:Class, or a molecule's YAML file.",
)
def command(
    run: str, form: str, out: str | None, unit: str | None, name: str | None, nodes: bool, given: str | None
) -> int:
    """Write the PMF of a run for another program.

    RUN is the folder of a run.
    """
    from cgbench.contracts.pmf import PMF
    from cgbench.contracts.system import maps_of
    from cgbench.errors import UserError, choices
    from cgbench.exchange.formats.writers import SUFFIXES, export
    from cgbench.exchange.names import find_map
    from cgbench.running.run_folder import RunFolder

    if unit is not None and form == "npz":
        raise UserError("--unit is for plumed and csv: an npz is in kT")
    folder = Path(run)
    record = RunFolder(folder).read_record()
    if record is None:
        raise UserError(f"{run} holds no record: give the folder of a run, such as runs/aldp/md/default/seed-0")
    system = _system(run, record, given)
    maps = maps_of(system)
    if len(maps) > 1 and name is None:
        raise UserError(f"{run} holds the PMFs of several maps; give --map: {choices(one.name for one in maps)}")
    chosen = find_map((), maps, name, run)
    pmf = PMF.load(folder / "pmf.npz", chosen.cvs, map=maps.index(chosen))
    molecular = "molecular" in system.traits
    if not molecular and unit not in (None, "kT"):
        raise UserError(f"{system.name} is a model without units: its energies are in kT (--unit kT)")
    stem = "pmf-export" if form == "npz" else "pmf"
    path = folder / f"{stem}{SUFFIXES[form]}" if out is None else Path(out)
    export(pmf, path, form, unit or ("kJ/mol" if molecular else "kT"), system.temperature if molecular else None, nodes)
    print(f"{path} written")
    return 0


def _system(run: str, record: Record, given: str | None) -> System:
    """Return the system of a run: the registered one, or the one that is given; say if its version differs."""
    from cgbench.errors import UserError
    from cgbench.running.registry import build_system, names
    from cgbench.storage.standard_streams import say

    if given is None and record.system not in names("system"):
        raise UserError(f"{run} is a run on {record.system}, which is not registered: give its file with --system")
    system = build_system(given or record.system)
    if system.name != record.system:
        raise UserError(f"{run} is a run on {record.system}, not on {system.name}: give its file with --system")
    if system.version != record.system_version:
        versions = f"version {record.system_version} of {system.name}, which now has version {system.version}"
        say(f"warning: {run} is a run on {versions}", error=True)
    return system
