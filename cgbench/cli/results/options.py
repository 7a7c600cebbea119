"""Options that commands on runs share."""

from __future__ import annotations

import click

__all__ = ["RUNS"]

RUNS = click.option(
    "--runs",
    "folders",
    multiple=True,
    default=("runs",),
    show_default=True,
    metavar="FOLDER",
    help="Folder of runs. Repeatable.",
)
