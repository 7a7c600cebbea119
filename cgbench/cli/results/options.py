"""Options that commands on runs share, and the file that they write."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["RUNS", "write_file"]

RUNS = click.option(
    "--runs",
    "folders",
    multiple=True,
    default=("runs",),
    show_default=True,
    metavar="FOLDER",
    help="Folder of runs. Repeatable.",
)


def write_file(out: str, content: bytes) -> None:
    """Write the file of option ``--out``.

    Raises
    ------
    UserError
        If it is a folder or cannot be written.
    """
    from cgbench.errors import UserError
    from cgbench.storage.files import write_atomically

    path = Path(out)
    if path.is_dir():
        raise UserError(f"cannot write {out}: it is a folder; give the name of a file with --out")
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from error
