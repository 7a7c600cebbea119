"""``cgbench leaderboard``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cgbench.running.record import Record

__all__ = ["command"]


@click.command("leaderboard")
@click.option(
    "--runs",
    "folders",
    multiple=True,
    default=("runs",),
    show_default=True,
    metavar="FOLDER",
    help="Folder of runs. Repeatable.",
)
@click.option("--system", multiple=True, metavar="NAME", help="Show only this system. Repeatable.")
@click.option("--method", multiple=True, metavar="NAME", help="Show only this method. Repeatable.")
@click.option("--preset", multiple=True, metavar="NAME", help="Show only this preset. Repeatable.")
@click.option("--sort", metavar="COLUMN", help="Sort by a column of the CSV.  [default: system, then forward KLD]")
@click.option("--descending", is_flag=True, help="Sort from the largest to the smallest value.")
@click.option(
    "--format", "form", type=click.Choice(["csv", "markdown"]), default="csv", show_default=True, help="Output format."
)
@click.option("--out", default="-", show_default=True, metavar="FILE", help="File to write; - is standard output.")
def command(folders: tuple[str, ...], sort: str | None, descending: bool, form: str, out: str, **wanted: Any) -> int:
    """Rank methods in a table: medians over seeds, best forward KLD first.

    The filters select rows; they do not change any value.
    """
    from cgbench.errors import UserError
    from cgbench.results.leaderboard import leaderboard
    from cgbench.results.runs import find_runs
    from cgbench.results.tables import choose, leaderboard_markdown, sort_by
    from cgbench.storage.files import write_atomically

    if descending and sort is None:
        raise UserError("--descending needs --sort COLUMN")
    skipped: list[Record] = []
    runs = find_runs([Path(folder) for folder in folders], on_skip=skipped.append)
    table = choose(leaderboard(runs), wanted)
    if sort is not None:
        table = sort_by(table, sort, descending)
    if form == "csv":
        text = table.to_csv(index=False, lineterminator="\n", float_format="%.6g")
    else:
        text = leaderboard_markdown(table)
    _report_skipped(skipped, wanted)
    if out == "-":
        print(text, end="")
        return 0
    try:
        write_atomically(Path(out), text.encode())
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    return 0


def _report_skipped(skipped: list[Record], wanted: dict[str, Any]) -> None:
    """Print to standard error how many of the wanted runs have no final PMF and are not ranked."""
    failed = [
        record.status == "failed"
        for record in skipped
        if all(not values or getattr(record, name) in values for name, values in wanted.items())
    ]
    if failed:
        counts = {"unfinished": failed.count(False), "failed": failed.count(True)}
        words = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        runs = "1 run is" if len(failed) == 1 else f"{len(failed)} runs are"
        print(f"cgbench: {runs} not ranked ({words})", file=sys.stderr)
