"""The HTML report: one page with its data, style and scripts, which needs no server, network or library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["report"]


def report(folders: Sequence[Path]) -> tuple[str, int]:
    """Return the page on all runs with a final PMF below the folders, and the number of runs.

    The page depends only on the files of the runs and on the installed systems; it contains no date, path or host.

    Raises
    ------
    UserError
        If a folder is missing or holds no run with a final PMF, or if a file of a run cannot be read.
    """
    from cgbench.results.report.content import gather
    from cgbench.results.report.html import render

    content = gather(folders)
    return render(content), len(content["runs"])
