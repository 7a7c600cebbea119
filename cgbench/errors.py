"""Errors that are the user's to mend, told in one line."""

from __future__ import annotations

__all__ = ["StorageError", "UserError", "choices"]


class UserError(Exception):
    """A mistake in what the user asked for.

    The command line prints the message as one line (what is wrong, where, what would be right) and exits
    with code 2. Anything else that escapes is a bug and shows its traceback.
    """


class StorageError(UserError):
    """A run's file cannot be written, because the disk is full for one; what was written before is whole."""


def choices(names: object) -> str:
    """Format the admissible names for the end of an error message."""
    return ", ".join(sorted(str(name) for name in names)) or "(none)"  # type: ignore[attr-defined]
