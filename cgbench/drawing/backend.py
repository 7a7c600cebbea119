"""Matplotlib with settings of our own: no display, and nothing of the user's configuration."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["own_settings"]

VARIABLE = "MPLBACKEND"


@contextmanager
def own_settings() -> Iterator[None]:
    """Draw inside the context with matplotlib's defaults; afterwards settings and environment are as before.

    Matplotlib cannot even be imported if MPLBACKEND names a missing backend. Jupyter passes its own backend on to the
    commands that it starts. Nothing else depends on the variable, because no picture needs a display.
    """
    _import_matplotlib()
    from matplotlib import style

    with style.context("default"):
        yield


def _import_matplotlib() -> None:
    """Import matplotlib without MPLBACKEND; apply the variable afterwards, for other users of this process."""
    wanted = None if "matplotlib" in sys.modules else os.environ.pop(VARIABLE, None)
    try:
        import matplotlib
    finally:
        if wanted is not None:
            os.environ[VARIABLE] = wanted
    if wanted:
        with suppress(ValueError):  # a backend that is missing here
            matplotlib.rcParams["backend"] = wanted
