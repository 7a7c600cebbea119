"""Matplotlib with settings of our own: no display, and nothing of the user's configuration."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from cgbench.errors import UserError

__all__ = ["FULL_DISK", "attempt", "hidden_backend", "own_settings"]

VARIABLE = "MPLBACKEND"
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def attempt(draw: Callable[[], None]) -> str | None:
    """Call a function that draws, with our own settings. Return None, or in one line why there is no picture.

    Raises
    ------
    UserError
        If `draw` raises it.
    OSError
        If the disk is full.
    """
    try:
        with own_settings():
            draw()
    except UserError:
        raise
    except Exception as error:  # fonts, caches, plugins of matplotlib: anything can be missing or broken
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            raise
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return None


@contextmanager
def own_settings() -> Iterator[None]:
    """Draw inside the context with matplotlib's defaults; afterwards settings and environment are as before.

    Matplotlib cannot even be imported if MPLBACKEND names a missing backend. Jupyter passes its own backend on to the
    commands that it starts. Nothing else depends on the variable, because no picture needs a display.
    """
    with hidden_backend():
        from matplotlib import style

    with style.context("default"):
        yield


@contextmanager
def hidden_backend() -> Iterator[None]:
    """Hide MPLBACKEND while code that may import matplotlib is imported; apply it afterwards, for others."""
    wanted = None if "matplotlib" in sys.modules else os.environ.pop(VARIABLE, None)
    try:
        yield
    finally:
        if wanted is not None:
            os.environ[VARIABLE] = wanted
            if "matplotlib" in sys.modules:
                with suppress(ValueError, AttributeError):  # a backend that is missing here, a broken matplotlib
                    sys.modules["matplotlib"].rcParams["backend"] = wanted
