"""``cgbench report``."""

from __future__ import annotations

from pathlib import Path

import click

from cgbench.cli.results.options import RUNS, write_file

__all__ = ["command"]


@click.command("report")
@RUNS
@click.option("--out", default="report.html", show_default=True, metavar="FILE", help="HTML file to write.")
def command(folders: tuple[str, ...], out: str) -> int:
    """Write an HTML report of runs: leaderboard, convergence curves, PMFs, provenance.

    The report is one file that needs no server and no network.
    """
    from cgbench.errors import UserError
    from cgbench.results.report import report

    if Path(out).suffix not in (".html", ".htm"):
        raise UserError(f"cannot write {out}: the suffix must be .html")
    page, runs = report([Path(folder) for folder in folders])
    content = page.encode()
    write_file(out, content)
    words = "1 run" if runs == 1 else f"{runs} runs"
    print(f"{out}: {words}, {len(content) / 1e6:.1f} MB; open it in a browser")
    return 0
