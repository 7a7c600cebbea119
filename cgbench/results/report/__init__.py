"""Records to one HTML page that needs nothing else: no server, no network, no library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["report"]


def report(folders: Sequence[Path]) -> tuple[str, int]:
    """Return the page on all ended runs below the folders, and how many they are.

    The page depends on the records and on what is installed alone: no date, no path, no host.

    Raises
    ------
    UserError
        If a folder is missing, holds no ended run, or a file of a run cannot be read.
    """
    from cgbench.results.report.content import gather
    from cgbench.results.report.html import render

    content = gather(folders)
    return render(content), len(content["runs"])
