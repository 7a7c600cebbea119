"""``cgbench paper``."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]


@click.command("paper", help="Regenerate the paper's figures and tables from the records of runs.")
@click.argument("names", nargs=-1)
@click.option("--runs", default="runs", show_default=True, help="Folder of published runs.")
@click.option("--out", default="paper", show_default=True, help="Folder; figures/ and tables/ are made in it.")
def command(names: tuple[str, ...], runs: str, out: str) -> int:
    """Regenerate all, or only what is named."""
    from cgbench_paper.regenerate import regenerate

    regenerate(Path(runs), Path(out), names, say=click.echo)
    return 0
