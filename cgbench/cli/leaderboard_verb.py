"""``cgbench leaderboard``."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]


@click.command("leaderboard", help="Gather the records of runs into a CSV file.")
@click.option("--runs", "folders", multiple=True, default=("runs",), show_default=True, help="Folder of runs.")
@click.option("--out", default="-", show_default=True, help="CSV file; - prints it.")
def command(folders: tuple[str, ...], out: str) -> int:
    """Rank all finished runs."""
    from cgbench.errors import UserError
    from cgbench.files import write_atomically
    from cgbench.leaderboard import find_runs, leaderboard

    table = leaderboard(find_runs([Path(folder) for folder in folders]))
    text = table.to_csv(index=False, lineterminator="\n", float_format="%.6g")
    if out == "-":
        print(text, end="")
        return 0
    try:
        write_atomically(Path(out), text.encode())
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    return 0
