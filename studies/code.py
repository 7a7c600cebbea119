"""Code: which stored runs were made by the code as it stands, and by which code the others.

Prints a table: for each row of the leaderboard, the fingerprints of its records' code (`Plan.code`), and whether they
are that of this checkout. A record without a fingerprint gets it from the sources of its commit, which are read from
git; with ``--write``, records keep it. Records of commits whose packages had other names have none.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import click

from cgbench.errors import UserError
from cgbench.results.rows import grouped
from cgbench.results.runs import FoundRun, find_runs
from cgbench.results.tables import markdown
from cgbench.running.provenance import code_of, fingerprint_of
from cgbench.running.record import record_bytes
from cgbench.running.registry import load
from cgbench.running.run_folder import RunFolder
from cgbench.storage.source_code import imported_files

__all__ = ["code_at", "command"]

ROOT = Path(__file__).resolve().parents[1]
PLACES = {"cgbench": "cgbench", "cgbench_methods": "methods", "cgbench_systems": "systems"}  # folder of each package


def code_at(root: Path, modules: tuple[str, ...]) -> str | None:
    """Return the fingerprint of modules in another tree of this project; None if one is not there."""
    inside = {name: root / place if name == place else root / place / name for name, place in PLACES.items()}
    places = {name: path for name, path in inside.items() if path.is_dir()}
    if not set(modules) <= set(imported_files(modules, places)):
        return None
    return fingerprint_of(modules, places)


class _History:
    """The sources of commits, extracted when they are needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.code = cache(self._code)

    def _code(self, commit: str, modules: tuple[str, ...]) -> str | None:
        place = self.folder / commit
        if not place.exists():
            wanted = sorted(set(PLACES.values()))
            call = ["git", "-C", str(ROOT), "archive", "--format=tar", commit, *wanted]
            try:
                content = subprocess.run(call, capture_output=True, check=True).stdout
            except (OSError, subprocess.CalledProcessError) as error:
                raise UserError(f"commit {commit[:12]} cannot be read from git: clone the whole history") from error
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                archive.extractall(place, filter="data")
        return code_at(place, modules)


def _modules(run: FoundRun) -> tuple[str, ...]:
    return load("method", run.record.method).__module__, load("system", run.record.system).__module__


def _code(run: FoundRun, history: _History) -> str | None:
    """Return the fingerprint in a record, or that of its commit."""
    found = run.record.provenance
    git: Mapping[str, object] = found.get("git") or {}
    if found.get("code") or git.get("dirty") or not git.get("commit"):
        return found.get("code")
    return history.code(str(git["commit"]), _modules(run))


@click.command("code")
@click.argument("folders", nargs=-1, required=True, metavar="RUNS...")
@click.option("--write", is_flag=True, help="Add the fingerprint to records that do not have it.")
def command(folders: tuple[str, ...], write: bool) -> None:
    """Show by which code the runs below the folders were made."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        history = _History(Path(place))
        for (system, _, method, preset), members in grouped(find_runs([Path(folder) for folder in folders])).items():
            now = code_of(load("method", method), load("system", system))
            codes = [_code(run, history) for run in members]
            for run, code in zip(members, codes, strict=True):
                if write and code is not None and not run.record.provenance.get("code"):
                    assert run.path is not None
                    updated = run.record.model_copy(update={"provenance": run.record.provenance | {"code": code}})
                    RunFolder(run.path).write("record.json", record_bytes(updated))
            current = sum(code == now for code in codes)
            names = ", ".join(sorted({(code or "unknown")[:8] for code in codes}))
            rows.append([system, method, preset, str(len(members)), str(current), names])
    click.echo(markdown(["system", "method", "preset", "runs", "of this code", "codes"], rows, 3), nl=False)


if __name__ == "__main__":
    from cgbench.cli.main import guarded

    sys.exit(guarded(command, "code", after_interrupt="the same command starts over"))
