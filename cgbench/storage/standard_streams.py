"""Standard output and error that are closed, full or limited to ASCII."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

__all__ = ["broken", "prepared", "say", "silence"]


@contextmanager
def prepared() -> Iterator[None]:
    """Make the standard streams accept every text inside the context.

    A character that the encoding of a stream lacks is written as an escape sequence. Closed streams are
    connected to the null device; the next file would get their number.
    """
    replaced: list[tuple[str, Any, Any]] = []
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None or getattr(stream, "closed", False):
            _occupy(number)
            null = open(os.devnull, "w" if number else "r", encoding="utf-8")
            replaced.append((name, stream, null))
            setattr(sys, name, null)
    changed: list[tuple[Any, str]] = []
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            with suppress(OSError, ValueError):  # closed, or full
                before = stream.errors
                stream.reconfigure(errors="backslashreplace")
                changed.append((stream, before or "strict"))
    try:
        yield
    finally:
        for name, stream, null in replaced:
            setattr(sys, name, stream)
            null.close()
        for stream, before in changed:
            with suppress(OSError, ValueError):
                stream.reconfigure(errors=before)


def _occupy(number: int) -> None:
    """Open the null device under a number of a standard stream, if the number is free."""
    descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest free number
    if descriptor == number:
        os.set_inheritable(descriptor, True)
    else:
        os.close(descriptor)


def say(text: str, *, error: bool = False) -> None:
    """Print a line at once, to standard error if `error`; a stream that cannot be written to is silenced."""
    stream = sys.stderr if error else sys.stdout
    try:
        print(text, file=stream, flush=True)
    except (OSError, ValueError):  # closed pipe, full disk, closed file
        silence(stream)


def broken(stream: Any) -> OSError | None:
    """Flush a stream. Return why it cannot be written to, or None."""
    try:
        stream.flush()
    except OSError as error:
        return error
    except ValueError:  # closed by this process
        pass
    return None


def silence(stream: Any) -> None:
    """Connect a stream to the null device, so that its buffer causes no further error."""
    with suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(descriptor, stream.fileno())
        finally:
            os.close(descriptor)
