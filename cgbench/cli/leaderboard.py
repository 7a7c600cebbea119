"""``cgbench leaderboard``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

__all__ = ["command"]


@click.command("leaderboard", help="Rank the records of runs, in a table.")
@click.option("--runs", "folders", multiple=True, default=("runs",), show_default=True, help="Folder of runs.")
@click.option("--system", multiple=True, help="Show this system alone. May be repeated.")
@click.option("--method", multiple=True, help="Show this method alone. May be repeated.")
@click.option("--preset", multiple=True, help="Show this preset alone. May be repeated.")
@click.option("--sort", metavar="COLUMN", help="Sort by a column of the CSV; by system and forward KLD by default.")
@click.option("--descending", is_flag=True, help="Largest first.")
@click.option("--format", "form", type=click.Choice(["csv", "markdown"]), default="csv", show_default=True)
@click.option("--out", default="-", show_default=True, help="File to write; - prints it.")
def command(folders: tuple[str, ...], sort: str | None, descending: bool, form: str, out: str, **wanted: Any) -> int:
    """Rank all finished runs; a filter changes which rows are shown, not what is in them."""
    from cgbench.errors import UserError
    from cgbench.results.leaderboard import leaderboard
    from cgbench.results.runs import find_runs
    from cgbench.results.tables import choose, leaderboard_markdown, sort_by
    from cgbench.storage.files import write_atomically

    if descending and sort is None:
        raise UserError("--descending needs --sort COLUMN")
    table = choose(leaderboard(find_runs([Path(folder) for folder in folders])), wanted)
    if sort is not None:
        table = sort_by(table, sort, descending)
    if form == "csv":
        text = table.to_csv(index=False, lineterminator="\n", float_format="%.6g")
    else:
        text = leaderboard_markdown(table)
    if out == "-":
        print(text, end="")
        return 0
    try:
        write_atomically(Path(out), text.encode())
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    return 0
