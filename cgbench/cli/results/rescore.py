"""``cgbench rescore``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cgbench.results.rescore import Rescored

__all__ = ["command"]


@click.command("rescore")
@click.argument("folders", nargs=-1, required=True, metavar="RUNS...")
@click.option("--check", is_flag=True, help="Write nothing; the exit code is 1 if a record would change.")
def command(folders: tuple[str, ...], check: bool) -> int:
    """Compute the metrics of finished runs again, from their stored PMFs.

    RUNS are folders of runs, searched at any depth. Records get the metrics, their version and the reference of the
    installed cgbench; a record that has them already is not written. Earlier estimates of a curve have no stored PMF
    and keep their scores. The exit code is 1 if a run cannot be rescored.
    """
    from cgbench.results.rescore import rescore

    found = rescore([Path(folder) for folder in folders], write=not check, on_result=lambda one: _say(one, check))
    counts = {
        "up to date": sum(one.current for one in found),
        "to be written" if check else "written": sum(not one.current and one.problem is None for one in found),
        "not rescored": sum(one.problem is not None for one in found),
    }
    words = ", ".join(f"{number} {what}" for what, number in counts.items() if number)
    click.echo(f"{len(found)} runs: {words}" if found else "no finished runs")
    failed = any(one.problem is not None for one in found)
    return 1 if failed or (check and not all(one.current for one in found)) else 0


def _say(found: Rescored, check: bool) -> None:
    """Print what changed in one run; nothing for a run that is up to date."""
    from cgbench.results.numbers import rounded

    if found.current:
        return
    if found.problem is not None:
        click.echo(f"{found.path}: {found.problem}")
        return

    def show(value: float | None) -> str:
        return "none" if value is None else rounded(value, 4)

    parts = [f"{name} {show(old)} -> {show(new)}" for name, (old, new) in found.changes.items()]
    if found.reference_changed:
        parts.append("the reference")
    if not parts:
        parts.append("only the version of the metrics is missing" if check else "metrics unchanged, version added")
    if found.changes and found.older_estimates:
        parts.append(f"{found.older_estimates} earlier estimates keep their scores")
    click.echo(f"{found.path}: {', '.join(parts)}")
