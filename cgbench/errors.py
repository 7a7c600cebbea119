"""Errors that are reported to the user in one line."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["NoReference", "PluginError", "StorageError", "UserError", "choices"]


class UserError(Exception):
    """A mistake in the user's request.

    The command line prints the message as one line (what is wrong, where, and what would be right) and exits
    with code 2. Any other exception that escapes is a bug and shows its traceback.
    """


class StorageError(UserError):
    """A file of a run cannot be written, for example because the disk is full. Files written earlier stay intact."""


class NoReference(UserError):
    """A system has no reference yet, as a molecule from a file; its runs have no score."""


class PluginError(UserError):
    """A system or method cannot be built, or an attribute that every run needs is missing or has the wrong type."""


def choices(names: Iterable[object]) -> str:
    """Format the allowed names for the end of an error message."""
    return ", ".join(sorted(str(name) for name in names)) or "(none)"
