"""``cgbench report``."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]


@click.command("report", help="Write one HTML page that shows the records of runs: ranking, curves, maps, provenance.")
@click.option("--runs", "folders", multiple=True, default=("runs",), show_default=True, help="Folder of runs.")
@click.option("--out", default="report.html", show_default=True, help="HTML file; it needs nothing else.")
def command(folders: tuple[str, ...], out: str) -> int:
    """Write the page."""
    from cgbench.errors import UserError
    from cgbench.results.report import report
    from cgbench.storage.files import write_atomically

    path = Path(out)
    if path.suffix not in (".html", ".htm"):
        raise UserError(f"cannot write {out}: the suffix must be .html")
    page, runs = report([Path(folder) for folder in folders])
    content = page.encode()
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
    words = "1 run" if runs == 1 else f"{runs} runs"
    print(f"{out}: {words}, {len(content) / 1e6:.1f} MB; open it in a browser")
    return 0
