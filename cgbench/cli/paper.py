"""``cgbench paper``."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]


@click.command("paper")
@click.argument("names", nargs=-1)
@click.option("--runs", default="runs", show_default=True, metavar="FOLDER", help="Folder of the published runs.")
@click.option(
    "--out", default="paper", show_default=True, metavar="FOLDER", help="Write to FOLDER/figures and FOLDER/tables."
)
def command(names: tuple[str, ...], runs: str, out: str) -> int:
    """Regenerate the figures and tables of the paper from the records of runs.

    NAMES are figures and tables, such as fig4_convergence; all by default.
    """
    from cgbench.drawing.backend import own_settings

    with own_settings():  # while the figures' modules are imported, too
        from cgbench_paper.regenerate import regenerate

        problems: list[str] = []
        regenerate(Path(runs), Path(out), names, say=click.echo, on_error=problems.append)
    for problem in problems:
        click.echo(f"cgbench: {problem}", err=True)
    return 1 if problems else 0
