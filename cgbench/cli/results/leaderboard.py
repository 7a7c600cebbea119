"""``cgbench leaderboard``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cgbench.cli.results.options import RUNS, write_file

if TYPE_CHECKING:
    from cgbench.running.record import Record

__all__ = ["command"]


@click.command("leaderboard")
@RUNS
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

    The filters select rows; they do not change any value. The exit code is 1 if there is no finished run to rank.
    """
    from cgbench.errors import UserError
    from cgbench.results.leaderboard import leaderboard
    from cgbench.results.rows import differences, grouped, of_row
    from cgbench.results.runs import find_runs
    from cgbench.results.tables import choose, leaderboard_markdown, sort_by

    if descending and sort is None:
        raise UserError("--descending needs --sort COLUMN")
    skipped: list[Record] = []
    runs = find_runs([Path(folder) for folder in folders], on_skip=skipped.append)
    if not any(_matches(run.record, wanted) for run in runs):
        if left_out := _left_out(skipped, wanted):
            print(f"cgbench: no finished runs to rank ({left_out})", file=sys.stderr)
            return 1
        if not runs:
            print(f"cgbench: no runs to rank in {', '.join(folders)} (--runs)", file=sys.stderr)
            return 1
    groups = grouped(runs)
    failed = [record for record in skipped if record.status == "failed"]
    table = choose(leaderboard(runs, failed), wanted)
    if sort is not None:
        table = sort_by(table, sort, descending)
    doubts = [
        f"warning: {run.path} is not reliable: {run.doubt}"
        for run in runs
        if run.doubt is not None and _matches(run.record, wanted)
    ]
    mixed = [
        f"warning: the seeds of {method} on {system}, preset {preset}, differ in "
        + "; ".join(f"{name} ({', '.join(values)})" for name, values in found.items())
        for (system, _, method, preset), members in groups.items()
        if (found := differences(members)) and _matches(members[0].record, wanted)
    ]
    survivors = [
        f"warning: {len(more)} of {len(more) + len(members)} runs of {method} on {system}, preset {preset}, failed; "
        "the medians are those of the others"
        for (system, _, method, preset), members in groups.items()
        if (more := of_row(members, failed)) and _matches(members[0].record, wanted)
    ]
    if form == "csv":
        text = table.to_csv(index=False, lineterminator="\n", float_format="%.6g")
    else:
        text = leaderboard_markdown(table, [*survivors, *doubts])
    _report_skipped(skipped, wanted)
    for doubt in [*survivors, *doubts, *mixed]:
        print(f"cgbench: {doubt}", file=sys.stderr)
    if out == "-":
        print(text, end="")
    else:
        write_file(out, text.encode())
    return 0


def _matches(record: Record, wanted: dict[str, Any]) -> bool:
    return all(not values or getattr(record, name) in values for name, values in wanted.items())


def _left_out(skipped: list[Record], wanted: dict[str, Any]) -> str:
    """Return how many of the wanted runs have no final PMF, such as "2 unfinished, 1 failed"; empty for none."""
    failed = [record.status == "failed" for record in skipped if _matches(record, wanted)]
    counts = {"unfinished": failed.count(False), "failed": failed.count(True)}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def _report_skipped(skipped: list[Record], wanted: dict[str, Any]) -> None:
    """Print to standard error how many of the wanted runs have no final PMF and are not ranked."""
    if left_out := _left_out(skipped, wanted):
        count = sum(_matches(record, wanted) for record in skipped)
        runs = "1 run is" if count == 1 else f"{count} runs are"
        print(f"cgbench: {runs} not ranked ({left_out})", file=sys.stderr)
